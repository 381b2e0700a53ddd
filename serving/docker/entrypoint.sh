#!/bin/sh
# Entry point of the images, compatible with tensorflow/serving: MODEL_NAME and MODEL_BASE_PATH select one model, and
# the container's flags come last, so that they override those below. `exec` makes the server process 1, which receives
# the signal of `docker stop`. /dev/shm is writable even with a read-only root, and is empty at the start.
export TMPDIR=/dev/shm
exec python -m tfship.serving.command --host=0.0.0.0 --port=8500 --rest_api_port=8501 \
    --model_name="$MODEL_NAME" --model_base_path="$MODEL_BASE_PATH/$MODEL_NAME" \
    --ready_file=/dev/shm/tfship.json "$@"
