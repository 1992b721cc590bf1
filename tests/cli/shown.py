"""What a command shows: its lines on standard output, or the one line that refuses it."""

from hypergen.cli.main import main


def output(capsys, *arguments, code=0):
    """The lines on standard output."""
    assert main([*arguments, "--device", "cpu"]) == code, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()


def complaint(capsys, *arguments):
    assert main([*arguments, "--device", "cpu"]) == 2
    return capsys.readouterr().err.splitlines()[-1]
