"""Versions that are as they were written, and yet no server would serve them."""

import shutil

import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from ddefense import exporting
from ddefense.records import RunError
from ddefense.serving import checksums, verifying
from ddefense.serving.runtime import WARM_UP


@pytest.fixture(scope="module")
def exported(make_tiny_network, tmp_path_factory):
    base = tmp_path_factory.mktemp("exported") / "model"
    return exporting.export_for_serving(make_tiny_network(), base).path


@pytest.fixture
def version(exported, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(exported, tmp_path / "model" / "3")


def test_a_version_is_verified(version):
    found = verifying.verify(version)
    assert (found.path, found.files, found.requests) == (version, 5, 8)


def test_a_damaged_version_is_not_loaded(version):
    (version / "variables" / "variables.index").unlink()
    with pytest.raises(checksums.ChecksumError, match=r"missing: variables/variables\.index"):
        verifying.verify(version)


def test_a_version_that_does_not_load_is_named(version):
    (version / "saved_model.pb").write_bytes(b"no graph")
    checksums.write(version)
    with pytest.raises(
        verifying.DamagedVersionError, match=r"3 to load .* StatusError: status \d+: "
    ):
        verifying.verify(version)


def test_a_version_that_refuses_a_warm_up_request_is_named(version):
    request = predict_pb2.PredictRequest(
        inputs={"images": tf.make_tensor_proto(tf.fill([1, 4, 4, 1], 2.0))}
    )
    request.model_spec.signature_name = "serving_default"
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    with tf.io.TFRecordWriter(str(version / WARM_UP)) as writer:
        writer.write(log.SerializeToString())
    checksums.write(version)
    with pytest.raises(
        verifying.DamagedVersionError, match=r"status 3: .*float32 values in \[0, 1\]"
    ):
        verifying.verify(version)


def test_a_version_without_warm_up_requests(version):
    (version / WARM_UP).unlink()
    checksums.write(version)
    assert verifying.verify(version).requests == 0


def test_a_directory_of_a_model_or_of_a_version(version, tmp_path):
    older = shutil.copytree(version, version.parent / "2")
    assert verifying.versions_of(version.parent) == [older, version]
    assert verifying.versions_of(older) == [older]
    other = shutil.copytree(version, tmp_path / "another" / "1")
    assert verifying.versions_of(tmp_path) == [other, older, version]
    (older / "saved_model.pb").unlink()  # whose absence is what is to be found
    assert verifying.versions_of(older) == [older]
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is none"):
        verifying.versions_of(tmp_path / "empty")
