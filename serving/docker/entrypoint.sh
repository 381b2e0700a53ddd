#!/bin/sh
# The images' entry point takes what that of tensorflow/serving takes: MODEL_NAME and MODEL_BASE_PATH for one model,
# and flags, which come last and so win. `exec` makes the server process 1, which gets the signal of `docker stop`.
# A container can write to /dev/shm even where its root is read-only, and it starts empty.
export TMPDIR=/dev/shm
exec python -m tfship.serving.command --host=0.0.0.0 --port=8500 --rest_api_port=8501 \
    --model_name="$MODEL_NAME" --model_base_path="$MODEL_BASE_PATH/$MODEL_NAME" \
    --ready_file=/dev/shm/tfship.json "$@"
