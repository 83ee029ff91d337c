"""`bin/distill` refuses what it cannot do in one line, before TensorFlow is imported."""

import pytest

USAGE = 2

COMMAND, MODULE = "bin/distill", "ddefense.cli.distill"
MISSING = ("tensorflow", "keras", "tensorflow_datasets", "sklearn")


GOOD = ("--data=digits", "--network=small", "--temperature=20")
REFUSED = [
    (("--network=small", "--temperature=20"), "--data: expected an image folder, an .npz file"),
    (("--data=digits", "--temperature=20"), "--network: expected a .keras file, or one of ['sm"),
    (("--data=digits", "--network=small"), "--temperature: expected T of both trainings"),
    ((*GOOD, "--network=none.keras"), "--network: expected a .keras file, or one of"),
    ((*GOOD, "--student=large"), "--student: expected a .keras file, or one of"),
    ((*GOOD, "--temperature=0"), "--temperature: expected a finite number > 0; received 0.0."),
    ((*GOOD, "--alpha=2"), "--alpha: expected a number in [0, 1]; received 2.0."),
    ((*GOOD, "--test_share=1"), "--test_share: expected a number in (0, 1); received 1.0."),
    ((*GOOD, "--image_shape=64"), "--image_shape: expected height, width and perhaps channels"),
    ((*GOOD, "--image_shape=64x0"), "--image_shape: expected height, width and perhaps channels"),
    ((*GOOD, "--value_range=1,0"), "--value_range: expected two finite numbers"),
    ((*GOOD, "--class_names=a"), "--class_names: expected at least two names"),
    ((*GOOD, "--early_stopping=2"), "--early_stopping: expected a --validation_share > 0"),
    ((*GOOD, "--method=extended"), "--temperature: expected 1 with method extended"),
    ((*GOOD, "--optimizer=lion"), "flag --optimizer=lion: value should be one of"),
    ((*GOOD, "--epochs=many"), "flag --epochs=many"),
    ((*GOOD, "--tempertaure=2"), "Unknown command line flag 'tempertaure'"),
    ((*GOOD, "more"), "expected flags only, received 'more'."),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_a_bad_flag_is_a_usage_message(cli, arguments, message):
    answer = cli(*arguments)
    assert (answer.returncode, answer.stdout) == (USAGE, "")
    assert message in answer.stderr
    assert "Usage: bin/distill [flags]" in answer.stderr


def test_a_directory_of_another_job_is_refused_before_tensorflow_is_imported(cli, tmp_path):
    (tmp_path / "notes.txt").write_text("not a run")
    answer = cli(*GOOD, f"--workdir={tmp_path}")
    assert (answer.returncode, answer.stdout) == (1, "")
    expected = "workdir: expected a new directory or one of an earlier run, received"
    assert answer.stderr.startswith(expected)
    assert len(answer.stderr.splitlines()) == 1
