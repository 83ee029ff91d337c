"""The flags of `bin/query`."""

from absl import flags

from ddefense import datasets
from ddefense.serving import client
from ddefense.settings import LARGEST_INTEGER


def define() -> None:
    """Registers the flags of `bin/query`. Called by the program only."""
    flags.DEFINE_list("images", None, "PNG or JPEG files to send, of any size.")
    flags.DEFINE_enum(
        "dataset", None, datasets.NAMES, "Send test images of this dataset instead of --images."
    )
    flags.DEFINE_integer(
        "samples",
        3,
        "Test images of --dataset to send, the first ones.",
        lower_bound=1,
        upper_bound=LARGEST_INTEGER,
    )
    flags.DEFINE_string(
        "data_dir", None, "Folder of prepared TFDS data. Default: TFDS_DATA_DIR, else TFDS's own."
    )
    flags.DEFINE_string("model", None, "Name of the model on the server.")
    flags.DEFINE_integer(
        "version", None, "Version of the model. Default: the newest.", lower_bound=0
    )
    flags.DEFINE_string(
        "server",
        None,
        "host:port of the server. Default: localhost:8500 for grpc, localhost:8501 for rest. "
        "Connections are not encrypted.",
    )
    flags.DEFINE_enum("protocol", "grpc", ["grpc", "rest"], "How to speak to the server.")
    flags.DEFINE_string(
        "saved_model",
        None,
        "Ask this exported model, such as exported_models/<name>, by TensorFlow's C++ runtime, "
        "without a server.",
    )
    flags.DEFINE_enum(
        "signature",
        None,
        list(client.SIGNATURES),
        "Signature to ask. Default: serving_labels for --images, serving_default for --dataset.",
    )
    flags.DEFINE_float("timeout", 10.0, "Seconds that a whole request may take, > 0.")
    flags.DEFINE_integer(
        "top", 3, "Most probable classes to show.", lower_bound=1, upper_bound=LARGEST_INTEGER
    )
    flags.DEFINE_bool("json", False, "Print JSON, with the probabilities of all classes.")
