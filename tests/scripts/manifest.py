"""The training scripts in this folder: what each one does, and what a probe should read from it.

Every script is as a person would write it, runs to its end by itself (`imdb_jax_backend.py` only
where JAX is installed, `fashion_notebook.py` only in IPython), knows nothing of autobatch, and downloads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Script:
    """One script and the truth about the `fit` call to probe, checked by looking at that call.

    Attributes:
        name: The file, in this folder.
        traits: What it has that a probe must cope with.
        arguments: What to call it with; it refuses to start without those it requires.
        base_batch_size: Rows in each full batch of that call.
        samples: Rows of the training data it passes, before any `validation_split`; None where
            the data is endless or a generator, or the script cannot run here.
        rule: How its learning rate scales.
        optimizers: The model's attributes that hold the optimizers its steps apply.
        expect: "found", or why no size can be: "fixed_batch" (only the script's own size runs),
            "backend" (it asks for a Keras back end that is not installed).
        fit: Which `fit` of the script is meant, counted from 1.
        validation_split: The share of `samples` that Keras keeps from training.
        overrides_expect: What `--backend tensorflow` makes of it; None where that changes nothing.
    """

    name: str
    traits: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    base_batch_size: int = 32
    samples: int | None = None
    rule: str = "sqrt"
    optimizers: tuple[str, ...] = ("optimizer",)
    expect: str = "found"
    fit: int = 1
    validation_split: float = 0.0
    overrides_expect: str | None = None


SCRIPTS: tuple[Script, ...] = (
    Script(
        "anomaly_autoencoder.py",
        ("arrays", "keyword", "no_targets", "add_loss", "validation_split", "early_stopping"),
        base_batch_size=100,
        samples=1500,
        validation_split=0.2,
    ),
    Script(
        "bucketed_tagger.py",
        (
            "bucketed",
            "unequal_shapes",
            "from_generator",
            "unknown_cardinality",
            "masking",
            "under_main",
            "validation_dataset",
        ),
        base_batch_size=24,
        samples=960,
    ),
    Script(
        "char_rnn_stateful.py",
        ("arrays", "fixed_batch", "stateful", "lstm", "fit_in_loop", "several_fits", "no_shuffle"),
        base_batch_size=16,
        samples=528,
        expect="fixed_batch",
    ),
    Script(
        "cifar10_tutorial.py",
        (
            "arrays",
            "float64",
            "default_batch_size",
            "input_shape_argument",
            "validation_arrays",
            "size_from_environment",
        ),
        base_batch_size=32,
        samples=1280,
    ),
    Script(
        "dcgan.py",
        ("dataset", "no_targets", "train_step", "two_optimizers", "own_compile", "unbuilt", "gan"),
        base_batch_size=64,
        samples=768,
        optimizers=("d_optimizer", "g_optimizer"),
    ),
    Script(
        "diffusion_images.py",
        (
            "dataset",
            "drop_remainder",
            "fixed_batch",
            "stretched",
            "no_targets",
            "train_step",
            "adapted",
            "random_numbers",
            "unbuilt",
            "validation_dataset",
        ),
        base_batch_size=12,
        samples=360,
        expect="fixed_batch",
    ),
    Script(
        "distill_student.py",
        ("arrays", "several_fits", "teacher_student", "compute_loss", "own_compile", "unbuilt"),
        base_batch_size=128,
        samples=1500,
        fit=2,
    ),
    Script(
        "fashion_notebook.py",
        ("arrays", "notebook", "float64", "default_batch_size", "validation_split"),
        base_batch_size=32,
        samples=900,
        validation_split=0.2,
    ),
    Script(
        "flowers_env_flags.py",
        (
            "environment",
            "dataset",
            "repeat",
            "steps_per_epoch",
            "validation_dataset",
            "validation_steps",
            "class_weight",
            "lr_scheduler_callback",
        ),
        base_batch_size=20,
    ),
    Script(
        "fraud_generator.py",
        (
            "generator",
            "steps_per_epoch",
            "sample_weight",
            "validation_generator",
            "float64",
            "unbuilt",
        ),
        base_batch_size=256,
    ),
    Script(
        "housing_normalization.py",
        (
            "arrays",
            "positional",
            "adapted",
            "sample_weight",
            "float64",
            "unbuilt",
            "reads_file",
            "changes_folder",
        ),
        base_batch_size=40,
        samples=2400,
    ),
    Script(
        "imdb_jax_backend.py",
        ("arrays", "other_backend", "environment", "validation_arrays", "unbuilt"),
        base_batch_size=512,
        samples=800,
        expect="backend",
        overrides_expect="found",
    ),
    Script(
        "mnist_convnet.py",
        ("arrays", "keyword", "top_level", "validation_split"),
        base_batch_size=128,
        samples=1200,
        validation_split=0.1,
    ),
    Script(
        "multi_io_tickets.py",
        (
            "dict_arrays",
            "multi_input",
            "multi_output",
            "lstm",
            "steps_per_epoch_on_arrays",
            "validation_split",
        ),
        base_batch_size=20,  # Keras splits first: ceil(1280 * 0.75 / 48)
        samples=1280,
        validation_split=0.25,
    ),
    Script(
        "pinn_eager.py",
        ("arrays", "no_targets", "train_step", "run_eagerly", "unbuilt", "fit_in_function"),
        base_batch_size=50,
        samples=1000,
    ),
    Script(
        "ragged_recommender.py",
        (
            "dict_dataset",
            "ragged",
            "unequal_shapes",
            "no_targets",
            "train_step",
            "contrastive",
            "unbuilt",
        ),
        base_batch_size=80,
        samples=2000,
    ),
    Script(
        "reviews_bilstm.py",
        ("dataset", "strings", "adapted", "lstm", "unbuilt", "validation_dataset"),
        base_batch_size=48,
        samples=1000,
    ),
    Script(
        "semi_supervised.py",
        (
            "dataset",
            "zipped_sizes",
            "no_targets",
            "train_step",
            "two_optimizers",
            "own_compile",
            "contrastive",
            "unbuilt",
            "validation_dataset",
        ),
        base_batch_size=40,
        samples=400,
        optimizers=("contrastive_optimizer", "probe_optimizer"),
    ),
    Script(
        "siamese_pairs.py",
        ("py_dataset", "multi_input", "custom_loss", "lambda_layer", "imports_neighbour"),
        base_batch_size=16,
        samples=640,
    ),
    Script(
        "train_absl.py",
        (
            "absl",
            "required_arguments",
            "arrays",
            "positional",
            "fit_override",
            "jit_compile",
            "class_weight",
            "schedule",
            "sgd",
            "unbuilt",
            "under_main",
        ),
        arguments=("--width=128",),
        base_batch_size=200,
        samples=4000,
        rule="linear",
    ),
    Script(
        "train_argparse.py",
        (
            "argparse",
            "required_arguments",
            "dataset",
            "strategy_scope",
            "schedule",
            "sgd",
            "fit_in_function",
            "under_main",
            "writes_file",
        ),
        arguments=("--images", "600"),
        base_batch_size=32,
        samples=600,
        rule="linear",
    ),
    Script(
        "train_click.py",
        (
            "click",
            "required_arguments",
            "dataset",
            "sample_weight",
            "train_step",
            "gradient_accumulation",
            "under_main",
        ),
        arguments=("--lr", "0.001"),
        base_batch_size=10,
        samples=500,
    ),
    Script(
        "transfer_learning.py",
        ("dataset", "several_fits", "freeze", "cache", "augmentation", "validation_dataset"),
        base_batch_size=36,
        samples=480,
    ),
    Script(
        "transformer_schedule.py",
        (
            "dataset",
            "drop_remainder",
            "schedule",
            "own_schedule",
            "transformer",
            "fit_in_function",
            "under_main",
            "validation_dataset",
        ),
        base_batch_size=28,
        samples=560,
    ),
    Script(
        "unet_segmentation.py",
        (
            "py_dataset",
            "sample_weight",
            "mixed_precision",
            "custom_metric",
            "unet",
            "model_checkpoint",
            "early_stopping",
            "tensorboard",
            "writes_file",
            "imports_neighbour",
            "reads_own_path",
        ),
        base_batch_size=8,
        samples=132,
    ),
    Script(
        "vae_digits.py",
        ("arrays", "no_targets", "train_step", "unbuilt", "vae", "environment"),
        base_batch_size=128,
        samples=2000,
    ),
    Script(
        "video_gru_fixed.py",
        ("dataset", "drop_remainder", "fixed_batch", "unbuilt"),
        base_batch_size=12,
        samples=192,
        expect="fixed_batch",
    ),
)
