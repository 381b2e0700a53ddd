"""Write tests/golden: those of the recorded answers that the models of tests/golden_models.py can give.

Run where all recordings lie beside the repository: PYTHONPATH=. .venv/bin/python tests/choose_golden.py
"""

import json
from collections.abc import Mapping

import recorded
from recorded import Case

__all__ = ["chosen", "main"]

# By group, in the recordings' order.
CHOSEN: Mapping[str, str] = {
    "rest": """
        row_unnamed_scalars row_unnamed_vectors row_named_vec row_neg_zero_exp col_named col_named_scalar
        signature_number signature_other signature_regress_via_predict no_default_named
        version_explicit_2 label_on_unlabelled_model version_unknown version_negative version_int64_max
        json_bad json_no_body_no_length json_whitespace_body json_two_objects json_bom json_dup_key json_nan
        json_infinity json_leading_plus both_inputs_first instances_object instances_mixed_named_unnamed
        inputs_extra_key ragged_row ragged_between_rows wrong_dtype_str different_batch_cols
        missing_input_second_row multi_unnamed_row multi_out_col
        naninf_out_row float_formatting double_naninf type_int64_big type_int64_over type_uint16 type_float64
        type_complex64_out type_bool_int str_row_named str_html_escapes str_b64_col str_b64_invalid
        shape_scalar_out_row shape_scalar_in_row shape_mixed_col shape_empty_out_col shape_different_batch_row
        status_all_versions status_version_unknown status_encoded_bad status_encoded_slash metadata_multi
        method_PUT_predict method_FOO_predict path_POST_v1 path_POST_predict_query path_POST_fragment
        path_POST_encoded_model accept_gzip_error chunked
        regress_ok regress_context regress_default_sig regress_missing_feature classify_version regress_label
    """,
    "grpc": """
        predict_tensor_content predict_float_val_too_many predict_unknown_rank predict_output_filter_both
        predict_output_filter_unknown predict_unknown_version predict_label_ok predict_unknown_signature
        predict_empty_model_name predict_missing_input predict_alias_tensor_name predict_wrong_dtype_int
        predict_strings predict_scalar_out predict_type_bfloat16 predict_type_complex64 unknown_service
        metadata_label metadata_no_field status_all status_unknown_version
        classify_ok classify_missing_feature classify_other_kind regress_context regress_empty_example_list
        multi_inference_two_regress multi_inference_dup_sig multi_inference_no_method
    """,
    "cors": "predict predict_no_origin preflight preflight_no_origin preflight_null error notfound",
    "batching": "multi different_batch_cols mixed_col different_batch_col regress",
    "grpcbatching": "predict_different_batch predict_output_filter",
    "tflite": """
        batch1_metadata batch1_two_rows batch1_wrong_rank batch1_classify nosig_metadata nosig_wrong_name
        nosig_unknown_signature u8_metadata u8_classify sigdef_metadata sigdef_wrong_name
    """,
    "tflitegrpc": """
        batch1_predict_wrong_name batch1_metadata nosig_predict_two nosig_predict_unknown_signature
        u8_predict_wrong_dtype u8_metadata sigdef_predict_wrong_name sigdef_metadata
    """,
    "prom": "predict metrics metrics_slash metrics_post",
}
# What is compared, and what is sent.
_KEPT = (
    *(
        "name",
        "method",
        "path",
        "request_headers",
        "request_body",
        "request_body_b64",
        "status",
        "response_body",
    ),
    *("rpc", "request_b64", "status_code", "details", "response_b64"),
)


def chosen(group: str) -> list[Case]:
    """Return a group's chosen cases, without what isn't compared; KeyError if one wasn't recorded."""
    cases = {case["name"]: case for case in recorded.read(recorded.ALL, group)}
    return [_short(cases[name]) for name in CHOSEN.get(group, "").split()]


def _short(case: Case) -> Case:
    short = {key: case[key] for key in _KEPT if case.get(key) is not None}
    if "rpc" in case:
        return short
    short["response_headers"] = [
        [name, value] for name, value in case["response_headers"] if name.lower() in recorded.CORS_HEADERS
    ]
    page = recorded.body(case, "response")
    if page.startswith(b"# TYPE"):
        short["response_body"] = "".join(f"{line}\n" for line in recorded.shared_metrics(page))
    elif page.startswith(b"{"):
        short["response_body"] = json.dumps(json.loads(page), separators=(",", ":"))
    return short


def main() -> None:
    """Write a file for each group, a line for each case."""
    for group in CHOSEN:
        lines = ",\n".join(json.dumps(case) for case in chosen(group))
        (recorded.SUBSET / f"{group}.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
