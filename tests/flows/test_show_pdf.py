"""`dr show --pdf`: a page an eye for readers."""

import re
import zlib

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from storage import open_workspace
from tests.flows.explained import explain

EYES = 6


def dr(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = open_workspace(tmp_path_factory.mktemp("pdf") / "ws")
    explain(made, EYES, grades=[number % 5 for number in range(EYES)])
    return made


def pages(file) -> list[str]:
    """What each page of a PDF says, without spaces, in the order in which it is drawn."""
    data = file.read_bytes()
    assert data.rstrip().endswith(b"%%EOF")
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL)
    drawn = []
    for stream in streams:
        try:
            content = zlib.decompress(stream)
        except zlib.error:
            continue
        if b"\nBT\n" in content or content.startswith(b"BT"):
            texts = b"".join(re.findall(rb"\(((?:\\.|[^\\()])*)\)", content, re.DOTALL))
            plain = re.sub(rb"\\(.)", rb"\1", texts, flags=re.DOTALL)
            drawn.append(plain.decode("utf-16-be").replace(" ", ""))
    assert len(re.findall(rb"/Type /Page\b", data)) == len(drawn)
    return drawn


def test_an_eyes_page_names_it_its_grades_its_model_and_what_it_is_not(workspace, tmp_path):
    file = tmp_path / "eye.pdf"
    result = dr("show", workspace.location, "2_left", "--pdf", file)
    assert result.exit_code == 0, result.output
    assert result.stderr.strip() == f"1 eye: {file}"
    (text,) = pages(file)
    (record,) = workspace.explanations()
    for words in ("Eye 2_left", "Graded stage 2 moderate", record.explain_id, record.model_id):
        assert words.replace(" ", "") in text
    for words in ("80.0 %", "4 proliferative", "superior", "Not a medical device"):
        assert words.replace(" ", "") in text


def test_many_eyes_are_a_page_each_in_the_order_of_their_ids_or_of_the_workspace(
    workspace, tmp_path
):
    file = tmp_path / "eyes.pdf"
    assert dr("show", workspace.location, "3_left", "1_left", "--pdf", file).exit_code == 0
    assert ["Eye3_left" in page for page in pages(file)] == [True, False]
    result = dr("show", workspace.location, "--where", "predicted_stage = 0", "--pdf", file)
    assert result.stderr.strip() == f"2 eyes: {file}"
    first, second = pages(file)
    assert "Eye1_left" in first
    assert "Eye3_right" in second


def test_the_same_eyes_give_the_same_bytes(workspace, tmp_path):
    files = [tmp_path / name for name in ("a.pdf", "b.pdf")]
    for file in files:
        assert dr("show", workspace.location, "1_left", "2_left", "--pdf", file).exit_code == 0
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "give one IMAGE_ID"),
        (("1_left", "2_left"), 2, "give one IMAGE_ID"),
        (("--where", "stage = 1"), 2, "give one IMAGE_ID"),
        (("1_left", "--where", "stage = 1", "--pdf", "x.pdf"), 2, "give one IMAGE_ID"),
        (("1_left", "nobody", "--pdf", "x.pdf"), 1, "nobody is not explained in"),
        (("--where", "stage = 7", "--pdf", "x.pdf"), 1, "no explained eye fulfils stage = 7"),
        (("--where", "stage is", "--pdf", "x.pdf"), 1, "syntax error"),
        (("1_left", "--pdf", "nowhere/x.pdf"), 1, "cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    workspace, tmp_path, monkeypatch, arguments, code, says
):
    monkeypatch.chdir(tmp_path)
    result = dr("show", workspace.location, *arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
