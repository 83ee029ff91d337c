"""What is written for a server, read back as the server reads it."""

import pytest

# Before the messages: or what stands in for TensorFlow would be left behind for other tests.
import tensorflow  # noqa: F401
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.config import model_server_config_pb2

from ddefense.records import RunError
from ddefense.serving import server_config

FIELD = descriptor_pb2.FieldDescriptorProto


@pytest.fixture(scope="module")
def messages():
    """TF Serving's messages for batching and monitoring, which its Python package lacks.

    Fields as in session_bundle_config.proto and monitoring_config.proto of its repository.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="serving.proto", package="serving", syntax="proto3"
    )
    integer = file.message_type.add(name="Int64Value")
    integer.field.add(name="value", number=1, type=FIELD.TYPE_INT64, label=1)
    batching = file.message_type.add(name="BatchingParameters")
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    for number, name in enumerate(names, 1):
        batching.field.add(
            name=name, number=number, type=FIELD.TYPE_MESSAGE, type_name=".serving.Int64Value"
        )
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, type=FIELD.TYPE_BOOL, label=1)
    prometheus.field.add(name="path", number=2, type=FIELD.TYPE_STRING, label=1)
    monitoring = file.message_type.add(name="MonitoringConfig")
    monitoring.field.add(
        name="prometheus_config",
        number=1,
        type=FIELD.TYPE_MESSAGE,
        type_name=".serving.PrometheusConfig",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)

    def make(name):
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"serving.{name}"))()

    return make


@pytest.fixture
def folder(tmp_path):
    """Two models, and what is none."""
    for version in ("digits/1", "digits/2", "a.model-b/7", ".tmp-x/1"):
        (tmp_path / version).mkdir(parents=True)
        (tmp_path / version / "saved_model.pb").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "1").mkdir(parents=True)
    (tmp_path / "half" / ".tmp-abc").mkdir()
    (tmp_path / "README.md").touch()
    return tmp_path


def read_models(folder):
    text = (folder / "models.config").read_text()
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def served(folder):
    return [(model.name, model.base_path) for model in read_models(folder).model_config_list.config]


def test_every_model_with_a_version_is_named(folder):
    written = server_config.write(folder)
    assert written == {"models.config": True, "batching.config": True, "monitoring.config": True}
    assert served(folder) == [("a.model-b", "/models/a.model-b"), ("digits", "/models/digits")]
    models = read_models(folder).model_config_list.config
    assert {model.model_platform for model in models} == {"tensorflow"}
    assert not list(folder.glob(".tmp-*.config"))


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("/srv/models", "/srv/models/digits"),
        ("/srv/models/", "/srv/models/digits"),
        ("gs://bucket/models", "gs://bucket/models/digits"),
        ('/a "quoted" {path}', '/a "quoted" {path}/digits'),
    ],
)
def test_models_are_where_the_server_sees_them(folder, base, path):
    server_config.write(folder, base)
    assert served(folder)[1] == ("digits", path)


@pytest.mark.parametrize("base", ["", "models", "./models", "../models", "~/m", "://x", "/a\n/b"])
def test_a_base_that_no_server_finds_is_refused(folder, base):
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match=r"^expected the absolute path"):
        server_config.write(folder, base)
    assert sorted(folder.iterdir()) == before


def test_templates_are_what_the_server_parses(folder, messages):
    server_config.write(folder)
    batching = messages("BatchingParameters")
    text_format.Parse((folder / "batching.config").read_text(), batching)
    assert (batching.max_batch_size.value, batching.batch_timeout_micros.value) == (64, 1000)
    assert (batching.num_batch_threads.value, batching.max_enqueued_batches.value) == (4, 100)
    monitoring = messages("MonitoringConfig")
    text_format.Parse((folder / "monitoring.config").read_text(), monitoring)
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_untouched_files_are_written_anew(folder):
    server_config.write(folder, "/first")
    (folder / "new" / "1").mkdir(parents=True)
    (folder / "new" / "1" / "saved_model.pb").touch()
    assert all(server_config.write(folder, "/second").values())
    assert [base for _, base in served(folder)] == [
        *("/second/a.model-b", "/second/digits", "/second/new")
    ]
    assert "/second/batching.config" in (folder / "batching.config").read_text()


def test_edited_files_are_kept(folder):
    server_config.write(folder)
    names = ("models.config", "batching.config")
    for name in names:
        path = folder / name
        path.write_text(path.read_text() + "# ours\n")
    before = {name: (folder / name).read_bytes() for name in names}
    assert server_config.write(folder, "/elsewhere") == {
        "models.config": False,
        "batching.config": False,
        "monitoring.config": True,
    }
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_edited_models_have_to_name_every_model(folder):
    path = folder / "models.config"
    text = 'model_config_list {\n config { name: "digits" base_path: "/here" }\n}\n'
    path.write_text(text)
    with pytest.raises(RunError, match=r"was edited and is kept.*it lacks a\.model-b\.") as raised:
        server_config.write(folder)
    _, missing = str(raised.value).split("\n", 1)
    path.write_text(text.replace("\n}", f"\n{missing}}}"))
    assert server_config.write(folder)["models.config"] is False
    assert served(folder) == [("digits", "/here"), ("a.model-b", "/models/a.model-b")]


def test_a_file_that_no_server_would_read_is_named(folder):
    (folder / "models.config").write_text("models: digits")
    with pytest.raises(RunError, match=r"models\.config to hold a ModelServerConfig .* move it"):
        server_config.write(folder)
    assert not (folder / "batching.config").exists()


@pytest.mark.parametrize("name", ["missing", "empty", "half"])
def test_there_is_nothing_to_serve(folder, name):
    with pytest.raises(RunError, match="Expected exported models in"):
        server_config.write(folder / name)
