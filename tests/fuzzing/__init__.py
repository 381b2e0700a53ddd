"""Fuzzing the model server: what is sent (`http_cases`, `grpc_cases`), to what (`target`), which
answers it may have (`answers`), how much of it.

`test_fuzzing.py` runs some of it in the suite. Before a release, from the repository's root:

    python -m tests.fuzzing --cases 100000
    python -m tests.fuzzing --replay FILE     # a failure again
    python -m tests.fuzzing.guided            # by coverage (`guided`, `inside`)
"""
