"""The report page in a real browser: it opens, moves, finds and folds, at the width of a desk and of a telephone."""
from __future__ import annotations

import pytest
import torch
import torchvision
from chromium import bounds, by, needed, run
from torch import nn

import fxgrow
from fxgrow.passes import Deepen, Widen

pytestmark = needed


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of a grown ResNet-18, and one of a network whose names look like markup."""
    folder = tmp_path_factory.mktemp("pages")
    model, x = torchvision.models.resnet18().eval(), torch.randn(2, 3, 32, 32)
    grown = fxgrow.transform(model, x, [Widen("layer1.*", factor=1.5, seed=0), Deepen("layer2", seed=0)])
    odd = nn.Sequential()
    for name, layer in ((ODD[0], nn.Conv2d(3, 4, 3)), (ODD[1], nn.Conv2d(4, 2, 3)), (ODD[2], nn.Flatten())):
        odd.add_module(name, layer)
    return {"resnet": fxgrow.report(grown, None, folder / "resnet.html"),
            "odd": fxgrow.report(odd, torch.zeros(1, 3, 8, 8), folder / "odd.html", title="<b>bold</b>"),
            "long": fxgrow.draw(Long(), torch.zeros(2, 4), folder / "long.html", repeats=False)}


class Long(nn.Module):
    """A thousand layers, each added to a stream, and the first of which is read again at the end."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(1000))

    def forward(self, x):
        kept = []
        for layer in self.layers:
            x = x + layer(x)
            kept.append(x)
        for old in kept[:300]:
            x = x * old
        return x


ODD = ("<script>hurt=1</script>", "</g></svg><img src=x onerror='hurt=1'>", 'a"];b')


def part(browser, path: str):
    """The element of the diagram that stands for a module or box, or None."""
    from selenium.webdriver.common.by import By
    found = browser.find_elements(By.CSS_SELECTOR, ".stage g[data-path]")
    return next((g for g in found if g.get_attribute("data-path") == path), None)


def press(browser, selector: str, start: str) -> None:
    """Clicks the first element whose text, title or label starts so."""
    run(browser, """[...document.querySelectorAll(arguments[0])].find((e) => [e.textContent, e.title, e.ariaLabel].some(
        (words) => (words || "").startsWith(arguments[1]))).click()""", selector, start)


def texts(browser, selector: str) -> list[str]:
    return run(browser, "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["resnet", "odd"])
def test_it_fits_the_screen(opened, name, width, tmp_path):
    browser = opened(name, width)
    assert run(browser, "return document.documentElement.scrollWidth") <= width
    for section in ("diagram", "filters", "costs"):
        assert by(browser, f"#{section} h2").is_displayed()
    stage, world = bounds(browser, ".stage"), bounds(browser, ".stage svg > g")
    assert stage["left"] <= world["left"] and world["right"] <= stage["right"]
    assert len(browser.get_screenshot_as_png()) > 20_000


@pytest.mark.parametrize("width", [1280, 390])
def test_search_finds_a_layer_and_opens_what_is_around_it(opened, width):
    from selenium.webdriver.common.keys import Keys
    browser = opened("resnet", width)
    by(browser, "#search").send_keys("layer4.1.conv2")
    assert by(browser, "#hits li").text.startswith("layer4.1.conv2")
    assert part(browser, "layer4.1.conv2") is None  # it is in a closed module
    by(browser, "#search").send_keys(Keys.ENTER)
    assert "layer4.1.conv2 Conv2d" in by(browser, "#details").text
    picked, stage = bounds(browser, ".picked"), bounds(browser, ".stage")
    assert stage["left"] <= picked["left"] and picked["right"] <= stage["right"]
    assert stage["top"] <= picked["top"] and picked["bottom"] <= stage["bottom"]
    by(browser, "#search").clear()
    by(browser, "#search").send_keys("no such layer")
    assert "no layer or module" in by(browser, "#hits").text


def test_search_by_kind_and_with_the_arrow_keys(opened):
    from selenium.webdriver.common.keys import Keys
    browser = opened("resnet")
    by(browser, "#search").send_keys("maxpool", Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ENTER)
    assert "MaxPool2d" in by(browser, "#details").text


def test_search_by_shape(opened):
    browser = opened("resnet")
    by(browser, "#search").send_keys("2x96x8x8")
    assert all("2×96×8×8" in hit for hit in texts(browser, "#hits li")) and len(texts(browser, "#hits li")) > 1


def test_a_long_network_is_drawn_where_one_looks(opened):
    browser = opened("long")
    known, drawn = run(browser, "return [fxgrow.shapes.size, document.querySelectorAll('.stage g[data-path]').length]")
    assert known > 2000 and 5 < drawn < 200
    run(browser, "fxgrow.reveal('layers.900')")
    assert "layers.900" in by(browser, "#details").text and by(browser, ".picked").is_displayed()
    assert run(browser, "return document.querySelectorAll('.stage .edge').length") > 5
    picked = run(browser, """fxgrow.at.y -= 5000; fxgrow.move();
        return new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(() => r(
            document.querySelectorAll('.picked').length))))""")
    assert picked == 0  # it is out of sight, and no longer in the page


def test_modules_close_and_open(opened):
    browser = opened("resnet")
    run(browser, "fxgrow.all(false)")
    assert part(browser, "layer1.0") is None and part(browser, "layer1") is not None
    part(browser, "layer1").click()
    assert part(browser, "layer1.0") is not None
    part(browser, "layer1").click()
    assert part(browser, "layer1.0") is None
    edges = run(browser, "return document.querySelectorAll('.edge').length")
    run(browser, "fxgrow.tree = fxgrow.trees[0]; fxgrow.all(true)")
    assert run(browser, "return document.querySelectorAll('.edge').length") > 4 * edges
    boxes = run(browser, """return fxgrow.tree.parts.filter((p) => !p.children).map((p) => fxgrow.shapes.get(p.id)).map(
        ({x, y, w, h}) => [x, y, w, h])""")
    assert len(boxes) > 30
    for i, (x, y, w, h) in enumerate(boxes):  # no box upon another
        assert all(x + w <= a or a + c <= x or y + h <= b or b + d <= y for a, b, c, d in boxes[:i])


def test_every_line_ends_where_its_boxes_are(opened):
    """Each edge of the graph is a path of lines between its two boxes, across the frames of the modules around them."""
    browser = opened("resnet")
    run(browser, "fxgrow.tree = fxgrow.trees[0]; fxgrow.all(true)")
    missing = run(browser, """
        const ends = [...document.querySelectorAll('.edge')].map((e) => {
          const n = e.getTotalLength(), a = e.getPointAtLength(0), b = e.getPointAtLength(n);
          return [a.x, a.y, b.x, b.y].map((v) => Math.round(v)); });
        const boxOf = (key) => fxgrow.shapes.get(fxgrow.tree.chains.get(key).at(-1).id);
        const near = (a, b) => Math.abs(a - b) < 2;
        return fxgrow.told.views[0].edges.filter(([tail, head]) => {
          const from = boxOf(tail), to = boxOf(head);
          let front = [[from.x + from.w / 2, from.y + from.h]];
          for (let step = 0; step < 12 && front.length; step += 1) {
            if (front.some(([x, y]) => near(x, to.x + to.w / 2) && near(y, to.y))) return false;
            front = front.flatMap(([x, y]) => ends.filter((e) => near(e[0], x) && near(e[1], y)).map((e) => [e[2], e[3]]));
          }
          return true; });""")
    assert missing == []


def test_drag_wheel_and_keys_move_it(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.common.keys import Keys
    browser = opened("resnet")
    run(browser, "fxgrow.stage.scrollIntoView()")
    view = by(browser, ".stage svg")

    def at():
        return run(browser, "return [fxgrow.at.x, fxgrow.at.y, fxgrow.at.k]")

    x, y, k = at()
    drag = ActionChains(browser).move_to_element_with_offset(view, -300, 0).click_and_hold().move_by_offset(50, 30)
    drag.release().perform()
    assert at() == pytest.approx([x + 50, y + 30, k])
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(view), 0, -200).perform()
    assert at()[2] > k
    by(browser, "button[title='Show all of it']").click()
    fitted = at()
    view.send_keys("+", Keys.ARROW_LEFT)
    assert at()[2] > fitted[2]


def test_hovering_and_clicking_tell_all_about_a_layer(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    browser = opened("resnet")
    run(browser, "fxgrow.reveal('layer1.0.conv1'); fxgrow.stage.scrollIntoView()")
    ActionChains(browser).move_to_element(by(browser, ".picked")).perform()
    words = by(browser, ".tip").text
    assert "layer1.0.conv1 Conv2d" in words and "FLOPs forward and backward" in words and "parameters new" in words
    assert "was 64→64" in words
    frame = "return fxgrow.shapes.get(fxgrow.tree.byName.get(arguments[0]).id).rect.getAttribute('stroke')"
    assert run(browser, frame, "layer2.2") == "#0072B2" != run(browser, frame, "layer2.1")


def test_the_tree_and_the_icicle_open(opened):
    browser = opened("resnet")
    before = texts(browser, "#tree tbody tr")
    press(browser, "#tree button", "open or close layer1")
    assert len(texts(browser, "#tree tbody tr")) == len(before) + 2
    press(browser, "#icicle button", "layer3 ")
    assert "within layer3" in by(browser, "#costs").text
    press(browser, "#costs button", "parameters")
    assert "of parameters" in by(browser, "#icicle button").get_attribute("title")
    press(browser, "#tree .link", "layer3")
    assert by(browser, "#details").text.startswith("layer3")


def test_growth_is_told(opened):
    browser = opened("resnet")
    assert "equal in eval mode" in by(browser, "#growth").text and "deepen layer2" in by(browser, "#growth").text
    rows = texts(browser, "#changes tbody tr")
    assert any(r.startswith("layer1.0.conv1Conv2dgrown") for r in rows) and any("inserted" in r for r in rows)
    run(browser, "document.querySelector('#growth input').click()")
    assert len(texts(browser, "#changes tbody tr")) > len(rows)
    assert "opposite signs" in by(browser, "#certificate").text
    press(browser, "#entries th button", "new numbers")
    values = [int(n.replace(",", "")) for n in texts(browser, "#entries tbody td:nth-child(6)")]
    assert values == sorted(values, reverse=True) and values[0] > 0
    assert run(browser, "return [...document.querySelectorAll('#filters img')].every((i) => i.naturalWidth > 10)")


def test_names_are_text(opened):
    browser = opened("odd")
    assert run(browser, "return window.hurt || null") is None
    assert browser.title == "<b>bold</b> · fxgrow" and by(browser, "h1").text == "<b>bold</b>"
    words = run(browser, "return document.querySelector('.stage svg').textContent")
    assert ODD[0] in words and 'a"];b' in words
    assert run(browser, "return document.querySelectorAll('.stage img, .stage script').length") == 0
    by(browser, "#search").send_keys("<script>")
    assert ODD[0] in by(browser, "#hits").text
