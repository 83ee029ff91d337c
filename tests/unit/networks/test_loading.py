"""Files that anybody may have made are loaded without running any code of theirs."""

import base64
import concurrent.futures
import io
import json
import marshal
import os
import pathlib
import pickle
import random
import shutil
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras.src.saving.serialization_lib import SafeModeScope

from ddefense import networks
from ddefense.layers import TemperatureSoftmax

STORED = pathlib.Path(__file__).parents[3] / "docs" / "results" / "digits" / "networks"


def on_images(*layers):
    images = x = keras.Input((4, 4, 1), name="images")
    for layer in layers:
        x = layer(x)
    return keras.Model(images, x, name="mine")


def dense(**settings):
    return keras.layers.Dense(3, **settings)


def rewritten(path, source, **members):
    """A copy of an archive with other contents of some members, or with more members."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(path, "w") as copy:
        contents = {name: archive.read(name) for name in archive.namelist()}
        for name, content in (contents | members).items():
            copy.writestr(name, content)
    return path


@pytest.fixture
def save(tmp_path):
    def save(network, name="network.keras"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of the lambdas that it saves
            network.save(tmp_path / name)
        return tmp_path / name

    return save


def refusal(path):
    with pytest.raises(ValueError, match=r"\Apath: expected a \.keras file") as caught:
        networks.load(path)
    assert repr(str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what loads -----------------------------------------------------------------------------------


def test_a_network_of_ours_loads_as_it_was_saved(make_tiny_network, tiny_images, save):
    network = make_tiny_network(20.0)
    found = networks.load(save(network))
    assert networks.temperature_of(found) == 20.0
    np.testing.assert_array_equal(
        networks.predict(found, tiny_images), networks.predict(network, tiny_images)
    )


@pytest.mark.slow
def test_the_package_of_networks_alone_knows_our_layer(run_python, tmp_path):
    code = (
        "import pathlib, sys; from ddefense import networks; "
        "print(networks.temperature_of(networks.load(pathlib.Path(sys.argv[1]))))"
    )
    process = run_python("-c", code, STORED / "baseline.keras", cwd=tmp_path)
    assert (process.stdout, process.returncode) == ("1.0\n", 0)


def of_many_layers():
    normalization = keras.layers.Normalization(mean=0.5, variance=0.25)
    inner = keras.Sequential([keras.Input((4, 4, 8)), keras.layers.Conv2D(8, 3)], name="inner")
    network = on_images(
        normalization,
        keras.layers.Conv2D(8, 3, padding="same", dtype="mixed_bfloat16"),
        keras.layers.BatchNormalization(),
        keras.layers.LeakyReLU(),
        inner,
        keras.layers.TimeDistributed(keras.layers.Dense(4, "swish", kernel_regularizer="l2")),
        keras.layers.Flatten(),
        lambda x: keras.ops.softmax(x / 2 + 1),
        dense(activation=keras.activations.softmax),
    )
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def test_a_network_of_keras_layers_loads_uncompiled(tiny_images, save):
    network = of_many_layers()
    found = networks.load(save(network))
    assert not found.compiled
    np.testing.assert_allclose(
        networks.predict(found, tiny_images), networks.predict(network, tiny_images), rtol=1e-6
    )


@keras.saving.register_keras_serializable(package="tests")
def own_loss(labels, outputs):
    return keras.ops.mean(outputs)


def test_what_it_was_trained_with_does_not_matter(save, tiny_images):
    network = on_images(keras.layers.Flatten(), dense())
    network.compile("sgd", own_loss)
    path = save(network)
    content = zipfile.ZipFile(path).read("config.json").replace(b"own_loss", b"lost_loss")
    assert content.count(b"lost_loss")
    path = rewritten(path.with_name("other.keras"), path, **{"config.json": content})
    np.testing.assert_array_equal(
        networks.predict(networks.load(path), tiny_images), networks.predict(network, tiny_images)
    )


def around_a_compiled_one():
    inner = on_images(keras.layers.Flatten(), dense())
    inner.compile("adam", "mse", metrics=["mae"])
    return on_images(inner, keras.layers.Softmax())


def test_a_network_around_a_compiled_one_loads(save, tiny_images):
    network = around_a_compiled_one()
    found = networks.load(save(network))
    assert not any(getattr(layer, "compiled", False) for layer in found.layers)
    np.testing.assert_array_equal(
        networks.predict(found, tiny_images), networks.predict(network, tiny_images)
    )


@keras.saving.register_keras_serializable(package="tests")
class Registered(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def test_a_layer_that_this_process_registered_loads(save, tiny_images):
    network = on_images(Registered(), keras.layers.Flatten())
    found = networks.predict(networks.load(save(network)), tiny_images)
    np.testing.assert_array_equal(found, 2 * tiny_images.reshape(10, 16))


# --- code in the configuration --------------------------------------------------------------------


def leaving(marker):
    """A lambda that leaves a file behind whenever it is called."""
    path = str(marker)
    return lambda x: (open(path, "w").close(), x)[1]


def lambda_layer(marker, name="evil"):
    return keras.layers.Lambda(leaving(marker), name=name)


def nested(marker):
    inner = keras.Sequential([keras.Input((4, 4, 1)), lambda_layer(marker)])
    return on_images(keras.Sequential([keras.Input((4, 4, 1)), inner]), keras.layers.Flatten())


def compiled(marker):
    network = on_images(keras.layers.Flatten(), dense())
    network.compile("sgd", loss=lambda labels, outputs: keras.ops.mean(outputs))
    return network


CODE = {
    "a layer": (lambda marker: on_images(lambda_layer(marker)), "'evil' (Lambda)."),
    "two layers": (
        lambda marker: on_images(lambda_layer(marker), lambda_layer(marker, "worse")),
        "'evil' (Lambda), 'worse' (Lambda).",
    ),
    "in a network in a network": (nested, "'evil' (Lambda)."),
    "in a wrapper": (
        lambda marker: on_images(keras.layers.TimeDistributed(lambda_layer(marker))),
        "'evil' (Lambda).",
    ),
    "of a function that Keras knows": (
        lambda marker: on_images(keras.layers.Lambda(keras.activations.relu, name="evil")),
        "'evil' (Lambda).",
    ),
    "an activation": (
        lambda marker: on_images(dense(activation=leaving(marker), name="evil")),
        "'evil' (a lambda).",
    ),
    "an initializer": (
        lambda marker: on_images(
            dense(kernel_initializer=lambda shape, dtype: keras.ops.ones(shape), name="evil")
        ),
        "'evil' (a lambda).",
    ),
    "a loss": (compiled, "the compile_config of 'mine' (a lambda)."),
}


@pytest.mark.parametrize("name", CODE)
def test_code_is_refused_and_the_layer_is_named(save, tmp_path, name):
    build, named = CODE[name]
    marker = tmp_path / "marker"
    path = save(build(marker))
    marker.unlink(missing_ok=True)  # whoever builds the network runs the lambda
    message = refusal(path)
    assert "it carries code" in message
    assert named in message
    assert not marker.exists()


def test_code_is_refused_where_keras_was_told_to_trust_it(save, tmp_path):
    marker = tmp_path / "marker"
    path = save(nested(marker))

    def trusting():
        # It holds for the thread, for good.
        keras.config.enable_unsafe_deserialization()
        marker.unlink()  # whoever builds the network runs the lambda
        keras.models.load_model(path, safe_mode=True)
        assert marker.exists()  # or the file would be harmless
        marker.unlink()
        assert "'evil' (Lambda)" in refusal(path)
        assert not marker.exists()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(trusting).result()


def edited(path, source, edit):
    """A copy whose configuration `edit` has changed."""
    with zipfile.ZipFile(source) as archive:
        config = json.loads(archive.read("config.json"))
    edit(config)
    return rewritten(path, source, **{"config.json": json.dumps(config)})


LAYERS_OF_FILES = {
    "TFSMLayer": {"filepath": "/tmp/graph", "call_endpoint": "serve"},
    "TorchModuleWrapper": {"module": base64.b64encode(pickle.dumps(0, 2)).decode()},
}


@pytest.mark.parametrize("name", LAYERS_OF_FILES)
def test_layers_that_bring_code_of_another_kind_are_refused(save, tmp_path, name):
    def edit(config):
        layer = config["config"]["layers"][1]
        layer["class_name"] = name
        layer["config"] = {"name": "evil"} | LAYERS_OF_FILES[name]

    source = save(on_images(keras.layers.Flatten()))
    assert f"'evil' ({name})." in refusal(edited(tmp_path / "edited.keras", source, edit))


def test_marshalled_code_is_refused_wherever_it_is(save, tmp_path):
    code = base64.encodebytes(marshal.dumps(compile("lambda x: x", "", "eval").co_consts[0]))

    def edit(config):
        config["config"]["layers"][1]["build_config"] = {"anything": [code.decode(), None, None]}

    source = save(on_images(keras.layers.Flatten(name="flat")))
    path = edited(tmp_path / "edited.keras", source, edit)
    assert "in 'flat' (a lambda)" in refusal(path)


def renaming(**changes):
    """Changes what the first layer behind the input is."""

    def edit(config):
        config["config"]["layers"][1] |= changes

    return edit


def lambda_config(function):
    return {"name": "evil", "function": function, "trainable": True}


def function(module, name):
    return {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": name,
    }


RELU = function("builtins", "relu")
DISGUISES = {
    "a dotted name": ("keras", "layers.Lambda"),
    "where it is defined": ("keras.src.layers.core.lambda_layer", "Lambda"),
    "where it is imported": ("keras.src.layers", "Lambda"),
    "a longer dotted name": ("keras", "src.layers.core.lambda_layer.Lambda"),
    "where files are": ("keras.src.export.tfsm_layer", "TFSMLayer"),
    "of JAX": ("keras.layers", "JaxLayer"),
    "of Flax": ("keras", "layers.FlaxLayer"),
    "of PyTorch": ("keras", "layers.TorchModuleWrapper"),
}


@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_layer_of_code_is_refused_under_each_of_its_names(save, tmp_path, name, wrapped):
    module, class_name = DISGUISES[name]
    layer = {
        "module": module,
        "class_name": class_name,
        "config": lambda_config(RELU),
        "registered_name": None,
    }

    def edit(config):
        if wrapped:
            config["config"]["layers"][1]["config"]["layer"] = layer
        else:
            config["config"]["layers"][1] |= layer

    wrapper = keras.layers.TimeDistributed(keras.layers.Flatten())
    path = edited(tmp_path / "edited.keras", save(on_images(wrapper)), edit)
    message = refusal(path)
    assert f"it carries code, or loads it from elsewhere, in 'evil' ({class_name})." in message


FUNCTIONS = {
    "of the configuration": ("keras.config", "set_floatx"),
    "by a dotted name": ("keras", "config.set_floatx"),
    "of files": ("keras.utils", "get_file"),
    "that makes a network": ("keras.applications", "VGG16"),
    "of another module": ("keras.src.utils.file_utils.os", "system"),
    "of Python": ("os", "system"),
    "that makes objects": ("builtins", "deserialize"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_is_no_part_of_a_network_is_refused(save, tmp_path, name):
    module, called = FUNCTIONS[name]

    def edit(config):
        config["config"]["layers"][1]["inbound_nodes"][0]["kwargs"]["mask"] = function(
            module, called
        )

    path = edited(tmp_path / "edited.keras", save(on_images(dense(name="last"))), edit)
    assert f"Keras knows no such part of a network: 'last' ({called!r})" in refusal(path)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("keras.callbacks", "ModelCheckpoint"),
        ("keras", "utils.PyDataset"),
        ("keras.utils", "get_file"),
        ("keras.metrics", "AUC"),
        ("keras.src.saving.saving_lib", "H5IOStore"),
        ("keras", "src.utils.file_utils.os.system"),
    ],
)
def test_a_class_that_is_no_part_of_a_network_is_refused(save, tmp_path, module, name):
    edit = renaming(module=module, class_name=name)
    path = edited(tmp_path / "edited.keras", save(on_images(dense(name="last"))), edit)
    assert f"Keras knows no such part of a network: 'last' ({name!r})" in refusal(path)


def test_a_layer_of_the_older_format_is_refused(save, tmp_path):
    def edit(config):
        del config["config"]["layers"][1]["module"]

    path = edited(tmp_path / "edited.keras", save(on_images(dense(name="last"))), edit)
    assert "'last' ('Dense' without its module)" in refusal(path)


@keras.saving.register_keras_serializable(package="tests")
def doubled(x):
    return 2 * x


def test_what_is_known_by_another_name_loads(save, tmp_path, tiny_images):
    network = on_images(keras.layers.Flatten(), dense(activation=doubled))
    source = save(network)
    path = edited(
        tmp_path / "edited.keras",
        source,
        renaming(module="keras", class_name="layers.Flatten"),
    )
    np.testing.assert_array_equal(
        networks.predict(networks.load(path), tiny_images), networks.predict(network, tiny_images)
    )


# --- pickled objects ------------------------------------------------------------------------------


class Touches:
    """Its unpickling makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


def pickled(marker, protocol):
    return pickle.dumps(Touches(marker), protocol)


def saved_arrays(save, *arrays, **named):
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


def objects(marker):
    return np.array([Touches(marker), None], dtype=object)


def zipped(name, content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


PICKLES = {
    "by its name": ("assets/state.pkl", lambda marker: pickled(marker, 0)),
    "of joblib": ("assets/STATE.joblib", lambda marker: b"compressed"),
    "of protocol 2": ("assets/state", lambda marker: pickled(marker, 2)),
    "of protocol 5": ("model.weights.h5", lambda marker: pickled(marker, 5)),
    "in an array": (
        "assets/array.npy",
        lambda marker: saved_arrays(np.save, objects(marker)),
    ),
    "in a field of an array": (
        "assets/array.npy",
        lambda marker: saved_arrays(np.save, np.zeros(2, [("ä", "f4"), ("b", object)])),
    ),
    "in arrays of weights": (
        "model.weights.npz",
        lambda marker: saved_arrays(np.savez, a=np.ones(3), b=objects(marker)),
    ),
    "in compressed weights": (
        "model.weights.npz",
        lambda marker: saved_arrays(np.savez_compressed, b=objects(marker)),
    ),
    "of PyTorch": ("assets/model", lambda marker: zipped("model/data.pkl", pickled(marker, 2))),
}
WHERE = {
    "model.weights.npz": "model.weights.npz/b.npy",
    "assets/model": "assets/model/model/data.pkl",
}


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickled_object_is_refused_and_never_made(tmp_path, name):
    member, make = PICKLES[name]
    marker = tmp_path / "marker"
    path = tmp_path / "network.keras"
    rewritten(path, STORED / "baseline.keras", **{member: make(marker)})
    message = refusal(path)
    assert "it carries pickled objects, which run whatever code they hold: " in message
    assert repr(WHERE.get(member, member)) in message
    assert not marker.exists()


def test_weights_that_keras_itself_pickles_are_refused(tmp_path):
    network, path = on_images(keras.layers.Flatten(), *(dense() for _ in range(8))), "a.keras"
    # What `network.save` calls; in this format it pickles a dictionary of the arrays of a layer.
    keras.src.saving.saving_lib.save_model(network, tmp_path / path, weights_format="npz")
    message = refusal(tmp_path / path)
    assert ": 'model.weights.npz/__root__.npy', 'model.weights.npz/layers/input_layer" in message
    assert ", and 3 more. Save the network again without them, its weights as HDF5." in message


def test_the_pickles_of_these_tests_would_make_a_file(tmp_path):
    marker = tmp_path / "marker"
    for protocol in (0, 2, 5):
        pickle.loads(pickled(marker, protocol))
        marker.unlink()
    np.load(io.BytesIO(saved_arrays(np.save, objects(marker))), allow_pickle=True)
    assert marker.exists()


def test_arrays_and_text_in_an_archive_are_no_pickles(tmp_path, tiny_images, save):
    path = save(on_images(keras.layers.Flatten()))
    members = {
        "assets/array.npy": saved_arrays(np.save, np.ones((2, 3))),
        "assets/words.txt": "one\ntwo\n",
        "assets/empty": b"",
        "assets/more.zip": zipped("words.txt", "three"),
    }
    found = networks.load(rewritten(tmp_path / "more.keras", path, **members))
    np.testing.assert_array_equal(networks.predict(found, tiny_images), tiny_images.reshape(10, 16))


# --- classes that Keras does not know -------------------------------------------------------------


def renamed(path, source, old, new):
    with zipfile.ZipFile(source) as archive:
        content = archive.read("config.json").decode()
    assert old in content
    return rewritten(path, source, **{"config.json": content.replace(old, new)})


class Whole(keras.Model):
    """A subclassed network."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.last = dense()

    def call(self, images):
        return self.last(images)


def test_a_layer_of_an_unknown_class_is_refused(tmp_path, save):
    inner = keras.Sequential([keras.Input((4, 4, 1)), Registered(name="odd")])
    path = renamed(tmp_path / "a.keras", save(on_images(inner)), "Registered", "Missing")
    message = refusal(path)
    assert "Keras knows no such part of a network: 'odd' ('Missing'). Only Keras' own" in message
    assert TemperatureSoftmax.__name__ in message


def test_a_subclassed_network_is_refused(tmp_path, save):
    network = Whole(name="whole")
    network(np.zeros((1, 3), np.float32))
    message = refusal(save(network))
    assert "Keras knows no such part of a network: the network ('Whole')" in message


@pytest.mark.parametrize("layer", [keras.layers.StringLookup, keras.layers.TextVectorization])
def test_a_vocabulary_outside_of_the_archive_is_not_read(save, tmp_path, layer):
    def edit(config):
        config["config"]["layers"][1]["config"]["vocabulary"] = "/dev/zero"

    words = keras.Input((1,), dtype="string")
    source = save(keras.Model(words, layer(vocabulary=["a"], name="words")(words)))
    path = edited(tmp_path / "edited.keras", source, edit)
    # As after `keras.config.enable_unsafe_deserialization`.
    with SafeModeScope(False):
        assert "a vocabulary from a file outside of the archive, in 'words'" in refusal(path)


@pytest.mark.parametrize("module", ["keras_hub.layers", "os", "kerasx", "builtins"])
def test_a_class_of_another_package_is_refused(tmp_path, save, module):
    def edit(config):
        config["config"]["layers"][1] |= {"module": module, "registered_name": None}

    source = save(on_images(keras.layers.Flatten(name="flat")))
    assert "'flat' ('Flatten')" in refusal(edited(tmp_path / "edited.keras", source, edit))


def test_an_unknown_function_is_refused_by_its_name(tmp_path, save):
    source = save(on_images(dense(activation="relu")))
    assert "relux" in refusal(renamed(tmp_path / "a.keras", source, '"relu"', '"relux"'))


# --- files that are no network --------------------------------------------------------------------


def with_config(content):
    return lambda path: rewritten(path, STORED / "baseline.keras", **{"config.json": content})


def with_weights(change):
    """Other weights, under a right checksum."""

    def damage(path):
        with zipfile.ZipFile(STORED / "baseline.keras") as archive:
            weights = archive.read("model.weights.h5")
        rewritten(path, STORED / "baseline.keras", **{"model.weights.h5": change(weights)})

    return damage


def cut_short(path):
    path.write_bytes((STORED / "baseline.keras").read_bytes()[:9999])


def flipped(member, place):
    """Flips a bit of the contents of a member, which leaves its checksum."""

    def damage(path):
        content = bytearray((STORED / "baseline.keras").read_bytes())
        with zipfile.ZipFile(STORED / "baseline.keras") as archive:
            inside = archive.read(member)
        content[content.index(inside) + int(place * (len(inside) - 1))] ^= 1
        path.write_bytes(content)

    return damage


def of_another_tree(weights):
    second = weights.index(b"TREE", weights.index(b"TREE") + 1)
    return weights[:second] + b"TRUE" + weights[second + 4 :]


def too_large(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(2**26 + 1))


def a_bomb(path):
    """A megabyte that unpacks to 257."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(__file__, "config.json")
        with archive.open("model.weights.h5", "w") as member:
            for _ in range(257):
                member.write(bytes(2**20))


def weights_of_another(path):
    on_images(keras.layers.Flatten(), dense()).save(path)
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    rewritten(path, STORED / "baseline.keras", **{"model.weights.h5": weights})


DAMAGE = {
    "text": (lambda path: path.write_text("no network"), "not a zip file. If it is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "not a zip file"),
    "cut short": (cut_short, ": it is damaged, or another kind of file: File is not a zip file. "),
    "weights cut short": (
        with_weights(lambda weights: weights[:2000]),
        ": its model.weights.h5 is damaged: Unable to synchronously open file (truncated file",
    ),
    "weights of text": (
        with_weights(lambda weights: b"no weights"),
        ": its model.weights.h5 is damaged: Unable to synchronously open file (file signature",
    ),
    "a bit flipped": (flipped("model.weights.h5", 0.5), "Bad CRC-32"),
    "the first bit": (flipped("model.weights.h5", 0), "Bad CRC-32 for file 'model.weights.h5'"),
    "the last bit": (flipped("model.weights.h5", 1), "Bad CRC-32 for file 'model.weights.h5'"),
    "a bit of what is not used": (flipped("metadata.json", 0.5), "Bad CRC-32 for file 'metadata."),
    "a bit of the configuration": (flipped("config.json", 0.5), "Bad CRC-32 for file 'config."),
    "within a right checksum": (with_weights(of_another_tree), "model.weights.h5 is damaged: "),
    "a bomb": (a_bomb, "it unpacks to "),
    "another archive": (lambda path: path.write_bytes(zipped("a.txt", "a")), "'config.json'"),
    "an empty configuration": (with_config("{}"), "config.json describes no network"),
    "a list": (with_config("[]"), "config.json describes no network"),
    "no JSON": (with_config("{"), "Expecting property name"),
    "nested without end": (with_config('{"class_name":' + "[" * 9999 + "]" * 9999 + "}"), "recurs"),
    "no configuration of the class": (with_config('{"class_name": "Functional"}'), ""),
    "too large a configuration": (too_large, "config.json takes 67108865 bytes"),
    "weights of another": (weights_of_another, "weights"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(tmp_path, name):
    damage, reason = DAMAGE[name]
    damage(tmp_path / "network.keras")
    message = refusal(tmp_path / "network.keras")
    assert reason in message
    assert "Example error message" not in message


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_short, "it is damaged"),
        (with_weights(lambda weights: weights[:2000]), "its model.weights.h5 is damaged: "),
    ],
)
def test_damage_to_a_file_of_a_run_is_named(tmp_path, damage, reason):
    damage(tmp_path / "network.keras")
    with pytest.raises(ValueError, match=rf"\Anetwork\.keras: {reason}"):
        networks.load_own(tmp_path / "network.keras")


def test_a_layer_by_itself_is_no_network(tmp_path, save):
    source = save(on_images(dense(name="last")))
    layer = keras.saving.serialize_keras_object(keras.layers.Softmax())
    path = rewritten(tmp_path / "layer.keras", source, **{"config.json": json.dumps(layer)})
    assert "it holds a Softmax and no network" in refusal(path)


# --- sizes ----------------------------------------------------------------------------------------


def of_units(config):
    config["config"]["layers"][-1]["config"]["units"] = 200_000_000


def of_a_wide_input(config):
    config["config"]["layers"][0]["config"]["batch_shape"] = [None, 4, 4, 10**9]
    for layer in config["config"]["layers"][1:]:
        layer["build_config"]["input_shape"] = [None, 4, 4, 10**9]


def at_once(config):
    """A layer that repeats a number, while it is loaded."""
    layers = config["config"]["layers"]
    layers.append(
        {
            "module": "keras.src.ops.numpy",
            "class_name": "Repeat",
            "config": {"name": "filler", "repeats": 2 * 10**9},
            "registered_name": None,
            "name": "filler",
            "inbound_nodes": [
                {
                    "args": [{"class_name": "__tensor__", "config": {"value": 1.0, "dtype": None}}],
                    "kwargs": {},
                }
            ],
        }
    )


TENSOR = {
    "class_name": "__keras_tensor__",
    "config": {"shape": [None, 3], "dtype": "float32", "keras_history": ["dense", 0, 0]},
}


def at_once_beside_an_input(config):
    """Its input is where Keras looks at none."""
    at_once(config)
    config["config"]["layers"][-1]["inbound_nodes"][0]["more"] = TENSOR


def at_once_of_an_input_within(config):
    at_once(config)
    (constant,) = config["config"]["layers"][-1]["inbound_nodes"][0]["args"]
    constant["config"]["more"] = TENSOR


def long_text(config):
    config["config"]["layers"][-1]["config"]["activation"] = {
        "class_name": "__numpy__",
        "config": {"value": "a", "dtype": "S2000000000"},
    }


def many_thresholds(config):
    """A metric that makes a list of them, in a network in the network."""
    metric = {
        "module": "keras.metrics",
        "class_name": "AUC",
        "config": {"num_thresholds": 10**9},
        "registered_name": None,
    }
    config["config"]["layers"][1]["compile_config"]["metrics"] = [metric]


def declared(path):
    """Weights of which one declares eight gigabytes and holds nothing."""
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", (2 * 10**9,), np.float32, chunks=(1024,))
    return path.read_bytes()


FILLERS = {
    "a layer": (of_units, "asks for weights of"),
    "a layer that computes of its weights": (of_a_wide_input, "asks for weights of"),
    "an operation": (at_once, "it computes something at once, of no image, in 'filler'"),
    "a layer with given statistics": (of_a_wide_input, "asks for weights of"),
    "an operation beside an input": (at_once_beside_an_input, "at once, of no image, in 'filler'"),
    "an operation of a constant": (at_once_of_an_input_within, "at once, of no image, in 'filler'"),
    "what a network within was trained with": (many_thresholds, "loaded"),
    "a text": (long_text, "it holds an array of no numbers, in 'dense"),
    "an array": (lambda config: None, "declares arrays of 8000000000 bytes"),
}

LOADING = """
import pathlib, resource, sys
from ddefense import networks
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        networks.load(pathlib.Path(path))
        print("loaded")
    except ValueError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_small_file_does_not_fill_the_memory(save, tmp_path, run_python):
    """Each of these would take more than a gigabyte."""
    source = save(on_images(keras.layers.Flatten(), dense()))
    statistics = save(on_images(keras.layers.Normalization()), "statistics.keras")
    arrays = declared(tmp_path / "declared.h5")
    paths = []
    given = save(on_images(keras.layers.Normalization(mean=1.0, variance=1.0)), "given.keras")
    sources = {"a layer that computes of its weights": statistics}
    sources["a layer with given statistics"] = given
    compiled = save(around_a_compiled_one(), "compiled.keras")
    sources["what a network within was trained with"] = compiled
    for i, (name, (edit, _)) in enumerate(FILLERS.items()):
        edited_source = sources.get(name, source)
        paths.append(edited(tmp_path / f"{i}.keras", edited_source, edit))
    rewritten(paths[-1], source, **{"model.weights.h5": arrays})
    assert all(path.stat().st_size < 50_000 for path in paths)
    *said, grown = run_python("-c", LOADING, *paths, cwd=tmp_path).stdout.splitlines()
    for message, (_, reason) in zip(said, FILLERS.values(), strict=True):
        assert reason in message
    assert int(grown) < 300_000  # KiB


def test_looking_at_sizes_draws_no_random_number(save):
    path = save(on_images(keras.layers.Flatten(), keras.layers.Dropout(0.5), dense()))
    found = []
    for load in (networks.load, lambda path: keras.models.load_model(path, compile=False)):
        keras.utils.set_random_seed(3)
        load(path)
        found.append(random.random())
    assert found[0] == found[1]


@keras.saving.register_keras_serializable(package="tests")
class Scaled(keras.layers.Layer):
    """Its variable has a value from the start, which cannot be made without one."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.scale = keras.Variable(np.float32([2]), trainable=False)

    def call(self, inputs):
        return self.scale * inputs


def test_a_registered_layer_that_needs_values_loads(save, tiny_images):
    network = on_images(Scaled(), keras.layers.Flatten())
    found = networks.predict(networks.load(save(network)), tiny_images)
    np.testing.assert_array_equal(found, 2 * tiny_images.reshape(10, 16))


# --- other kinds of file --------------------------------------------------------------------------

KINDS = {
    "network.h5": "Keras' older format",
    "network.HDF5": "Keras' older format",
    "network.weights.h5": "Weights alone have no layers",
    "network.pkl": "A pickle runs whatever code it holds",
    "network.pickle": "A pickle runs whatever code it holds",
    "saved_model.pb": "A SavedModel is a graph without layers",
    "network.onnx": "Load it with Keras",
    "network": "Load it with Keras",
}


@pytest.mark.parametrize("name", KINDS)
def test_another_kind_of_file_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"content")
    message = refusal(tmp_path / name)
    assert KINDS[name] in message
    assert "save it as one" in message


def test_a_suffix_in_capitals_is_to_be_renamed(tmp_path):
    """Keras does not take it for one of its files."""
    path = shutil.copy(STORED / "baseline.keras", tmp_path / "UP.KERAS")
    assert refusal(path).endswith("in small letters alone: rename it.")


@pytest.mark.parametrize("name", ["exported.keras", "exported"])
@pytest.mark.parametrize("graph", [".", "3"])
def test_a_saved_model_is_refused_as_such(tmp_path, name, graph):
    (tmp_path / name / graph).mkdir(parents=True)
    (tmp_path / name / graph / "saved_model.pb").touch()
    assert "a folder. A SavedModel is a graph without layers" in refusal(tmp_path / name)


def test_a_fifo_is_refused_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "network.keras")
    assert "network.keras', a FIFO." in refusal(tmp_path / "network.keras")


def test_nothing_and_a_folder_are_refused(tmp_path):
    assert "there is no such file" in refusal(tmp_path / "network.keras")
    assert "a folder. Load it with Keras" in refusal(tmp_path)
