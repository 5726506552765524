"""Made-up data fits its model: each is really trained on it, in one process for all of them."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tensorflow

SCRIPT = Path(__file__).with_name("synthetic_cases.py")

# What each case's inputs and targets must be: `place:dtype(shape) values`. The shape is that of one
# sample. Values are a range `low..high`, a choice `a|b`, or texts of so many words `*7`; after
# them, `=1` says that the last axis sums to one.
WANTED = {
    "cifar10_cnn": (["float32(32,32,3) 0..1"], ["int32() 0..9"]),
    "imdb_lstm": (["int32(500) 1..9999"], ["float32(1) 0..1"]),
    "resnet50": (["float32(64,64,3) 0..1"], ["int32() 0..99"]),
    "transformer": (["int32(128) 1..4999"], ["int32() 0..3"]),
    "sparse_probabilities": (["float32(4) 0..1"], ["int32() 0..4"]),
    "sparse_logits": (["float32(4) 0..1"], ["int32() 0..4"]),
    "sparse_function": (["float32(4) 0..1"], ["int32() 0..4"]),
    "partial": (["float32(4) 0..1"], ["int32() 0..4"]),
    "accuracy_of_class_ids": (["float32(4) 0..1"], ["int32() 0..4"]),
    "categorical": (["float32(4) 0..1"], ["float32(5) 0..1 =1"]),
    "categorical_focal": (["float32(4) 0..1"], ["float32(5) 0..1 =1"]),
    "kl_divergence": (["float32(4) 0..1"], ["float32(5) 0..1 =1"]),
    "categorical_hinge": (["float32(4) 0..1"], ["float32(4) 0..1 =1"]),
    "custom_subclass": (["float32(4) 0..1"], ["float32(5) 0..1 =1"]),
    "tversky_classes": (["float32(4) 0..1"], ["float32(3) 0..1 =1"]),
    "dice_one_class": (["float32(4) 0..1"], ["float32(1) 0|1"]),
    "binary": (["float32(4) 0..1"], ["float32(1) 0|1"]),
    "binary_focal": (["float32(4) 0..1"], ["float32(1) 0|1"]),
    "binary_multilabel_logits": (["float32(4) 0..1"], ["float32(4) 0|1"]),
    "hinge": (["float32(4) 0..1"], ["float32(1) -1|1"]),
    "squared_hinge": (["float32(4) 0..1"], ["float32(1) -1|1"]),
    "poisson": (["float32(4) 0..1"], ["float32(1) 1..2"]),
    "msle": (["float32(4) 0..1"], ["float32(1) 1..2"]),
    "mape": (["float32(4) 0..1"], ["float32(1) 1..2"]),
    "mse": (["float32(4) 0..1"], ["float32(3) 0..1"]),
    "cosine": (["float32(4) 0..1"], ["float32(3) 0..1"]),
    "huber": (["float32(4) 0..1"], ["float32(3) 0..1"]),
    "circle": (["float32(4) 0..1"], ["int32() 0..1"]),
    "ctc": (["float32(12,4) 0..1"], ["int32(6) 1..5"]),
    "custom_function": (["float32(4) 0..1"], ["float32(3) 0..1"]),
    "custom_function_of_class_ids": (["float32(4) 0..1"], ["int32() 0..4"]),
    "custom_loss_class": (["float32(4) 0..1"], ["float32(3) 0..1"]),
    "segmentation": (["float32(8,8,3) 0..1"], ["int32(8,8) 0..4"]),
    "segmentation_channels_first": (["float32(8,8,3) 0..1"], ["float32(5,8,8) 0|1"]),
    "outputs_list": (["float32(4) 0..1"], ["0:int32() 0..2", "1:float32(1) 0..1"]),
    "outputs_list_losses_dict": (
        ["float32(4) 0..1"],
        ["0:float32(3) 0..1 =1", "1:float32(1) 1..2"],
    ),
    "outputs_dict": (["float32(4) 0..1"], ["kind:int32() 0..2", "size:float32(1) 1..2"]),
    "outputs_without_loss": (["float32(4) 0..1"], ["0:int32() 0..2", "1:float32(1) 0..0"]),
    "outputs_dict_without_loss": (
        ["float32(4) 0..1"],
        ["a_size:float32(1) 0..0", "b_kind:float32(3) 0..1 =1"],
    ),
    "one_loss_for_all": (["float32(4) 0..1"], ["0:float32(2) 0..1", "1:float32(3) 0..1"]),
    "inputs_list": (["0:float32(4) 0..1", "1:int32(6) 1..8"], ["float32(1) 0..1"]),
    "inputs_dict": (["a:int64() 1..6", "z:float32(4) 0..1"], ["float32(1) 0..1"]),
    "tokens_as_floats": (["float32(5) 1|2"], ["float32(1) 0..1"]),
    "tokens_cast_and_reshaped": (["float32(12) 1..3"], ["float32(3,4,1) 0..1"]),
    "tokens_of_smallest_table": (["int32(5) 1|2"], ["float32(5,1) 0..1"]),
    "tokens_of_each_column": (["int32(3) 1|2"], ["float32(1) 0..1"]),
    "tokens_in_nested_model": (["int32(5) 1..3"], ["float32(1) 0..1"]),
    "tokens_in_custom_layer": (["int32(6) 1..999"], ["float32(6,1) 0..1"]),
    "image_patches_with_positions": (["float32(8,8,3) 0..1"], ["float32(16,1) 0..1"]),
    "raw_tensorflow_lookup": (["int32(4) 1..4"], ["float32(4,1) 0..1"]),
    "category_encoding": (["int32(4) 1|2"], ["float32(1) 0..1"]),
    "one_hot": (["int32(4) 1|2"], ["float32(4,1) 0..1"]),
    "integer_lookup": (["int64(2) 12|36|1138"], ["float32(2,1) 0..1"]),
    "string_lookup": (["object(1) red|blue"], ["float32(1) 0..1"]),
    "text_vectorization": (["object(1) *7"], ["float32(1) 0..1"]),
    "text_of_any_length": (["object(1) *9"], ["float32(9,2) 0..1"]),
    "hashing": (["object(1) *1"], ["float32(1) 0..1"]),
    "bool_mask_and_pixels": (["0:uint8(4,4,1) 0..255", "1:bool(16,1) 0|1"], ["float32(16,1) 0..1"]),
    "mixed_precision": (["0:float32(4) 0..1", "1:int32(4) 1..4"], ["int32() 0..2"]),
    "half_precision": (["float16(4) 0..1"], ["float32(2) 0..1"]),
    "sequence": (["int32(11) 1..19"], ["float32(1) 0..1"]),
    "encoder_and_decoder": (["0:int32(7) 1..19", "1:float32(7,4) 0..1"], ["int32(7) 0..7"]),
    "image_of_any_size": (["float32(16,12,3) 0..1"], ["float32(16,12,2) 0..1"]),
    "image_without_name": (["float32(16,12,3) 0..1"], ["float32(16,12,2) 0..1"]),
    "fixed_batch": (["float32(5,2) 0..1"], ["float32(2) 0..1"]),
    "unbuilt_sequential": (["float32(28,28,1) 0..1"], ["int32() 0..9"]),
    "unbuilt_with_embedding": (["int32(10) 1..29"], ["float32(1) 0..1"]),
    "unbuilt_with_custom_embedding": (["int32(6) 1..39"], ["float32(6,1) 0..1"]),
    "subclassed": (["float32(5) 0..1"], ["float32(3) 0..1 =1"]),
    "subclassed_and_built": (["float32(5) 0..1"], ["float32(3) 0..1 =1"]),
    "subclassed_with_named_inputs": (
        ["left:float32(5) 0..1", "right:float32(2,3) 0..1"],
        ["int32() 0..2"],
    ),
    "eager_only": (["float32(5) 0..1"], ["float32(3) 0..1"]),
    "own_train_step": (["float32(5) 0..1"], None),
    "own_train_step_without_call": (["float32(5) 0..1"], None),
    "own_train_step_with_targets": (["float32(4) 0..1"], ["int32() 0..2"]),
    "own_train_step_with_compiled_loss": (["float32(4) 0..1"], ["int32() 0..2"]),
    "added_loss": (["float32(4) 0..1"], None),
    "labels_among_the_inputs": (["0:float32(4) 0..1", "1:int32() 1|2"], None),
    "own_compute_loss": (["float32(4) 0..1"], None),
    "uncompiled_softmax": (["float32(4) 0..1"], ["int32() 0..2"]),
    "uncompiled_sigmoid": (["float32(4) 0..1"], ["float32(2) 0|1"]),
    "uncompiled_heads": (["float32(4) 0..1"], ["kind:int32() 0..2", "size:float32(1) 0..1"]),
    "uncompiled_as_told": (["float32(4) 0..1"], ["float32(1) -1|1"]),
    "uncompiled_train_step": (["float32(5) 0..1"], None),
    "compiled_and_told": (["float32(4) 0..1"], ["float32(3) 0..1"]),
}

WARNINGS = {
    "uncompiled_softmax": ["optimizer 'adam'", "loss 'sparse_categorical_crossentropy'"],
    "uncompiled_sigmoid": ["optimizer 'adam'", "loss 'binary_crossentropy'"],
    "uncompiled_heads": ["'kind': 'sparse_categorical", "'size': 'mean_squared_error'"],
    "uncompiled_as_told": [],
    "uncompiled_train_step": ["optimizer 'adam'", "no loss, as it has its own train_step()"],
    "compiled_and_told": ["compiled already", "--loss mse was not used"],
}

ERRORS = {
    "error_unknown_image": (
        "ModelError",
        ["'image'", "(batch, None, None, 3)", "--input-shape image=224,224,3", "build_dataset()"],
    ),
    "error_length_of_an_image": ("ModelError", ["--input-shape image=224,224,3"]),
    "error_unknown_length": ("ModelError", ["(batch, None)", "=128", "--sequence-length 128"]),
    "error_length_of_nothing": ("UsageError", ["--sequence-length 5", "(batch, 4)"]),
    "error_unknown_name": ("UsageError", ["'picture'", "'image'"]),
    "error_rank": ("UsageError", ["image=16,16 contradicts", "(batch, None, None, 3)"]),
    "error_known_dimension": ("UsageError", ["image=16,16,1 contradicts"]),
    "error_no_pixels": ("UsageError", ["image=0,16,3", "at least 1"]),
    "error_name_needed": ("UsageError", ["without a name", "2: 'a', 'z'"]),
    "error_samples": ("UsageError", ["samples", "received 0"]),
    "error_nothing_known": ("ModelError", ["Subclassed", "--input-shape 224,224,3"]),
    "error_wrong_shape_for_subclass": ("ModelError", ["only rows of four", "--input-shape"]),
    "error_compile_of_its_own": ("ModelError", ["Adversarial.compile()", "d_optimizer"]),
    "error_loss": ("UsageError", ["--loss", "'no_such_loss'"]),
    "error_optimizer": ("UsageError", ["--optimizer", "'no_such_optimizer'"]),
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Each case's line, by name."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        cwd=tmp_path_factory.mktemp("synthetic"),
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = map(json.loads, done.stdout.splitlines())
    return {line["case"]: line for line in found}


def check(wanted, arrays, samples):
    for want, array in zip(sorted(wanted), sorted(arrays, key=lambda a: a["place"]), strict=True):
        place, dtype, shape, values, total = re.fullmatch(
            r"(?:(\w+):)?(\w+)\(([\d,]*)\) (\S+)(?: =(\d))?", want
        ).groups()
        assert array["place"] == (place or "")
        assert array["dtype"] == dtype
        assert array["shape"] == [samples, *map(int, filter(None, shape.split(",")))]
        seen = array["values"]
        if values.startswith("*"):
            assert {len(text.split()) for text in seen} == {int(values[1:])}
        elif "|" in values:
            allowed = values.split("|")
            assert {v if dtype == "object" else f"{v:g}" for v in seen} <= set(allowed)
        else:
            low, high = map(float, values.split(".."))
            assert low <= array["lowest"] <= array["highest"] <= high
        if total:
            assert array["sums"] == [float(total)]


def test_every_case_is_wanted(lines):
    assert set(lines) == set(WANTED) | set(ERRORS)


@pytest.mark.parametrize("name", WANTED)
def test_a_model_trains_on_its_made_up_data(lines, name):
    line = lines[name]
    assert "error" not in line, line
    assert math.isfinite(line["loss"])
    x, y = WANTED[name]
    check(x, line["x"], line["samples"])
    if y is None:
        assert line["y"] is None
    else:
        check(y, line["y"], line["samples"])


@pytest.mark.parametrize("name", WARNINGS)
def test_what_was_assumed_is_said(lines, name):
    said = lines[name]["warnings"]
    assert len(said) == bool(WARNINGS[name])
    for part in WARNINGS[name]:
        assert part in said[0]


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_to_do(lines, name):
    kind, parts = ERRORS[name]
    assert lines[name].get("error") == kind, lines[name]
    for part in parts:
        assert part in lines[name]["message"]


def test_tokens_reach_beyond_the_smaller_table_of_positions(lines):
    """The trace tells a layer's own positions from what it is given."""
    assert lines["tokens_in_custom_layer"]["x"][0]["highest"] > 500


def test_the_seed_decides(lines):
    assert lines["sparse_logits"]["x"] == lines["sparse_function"]["x"]
