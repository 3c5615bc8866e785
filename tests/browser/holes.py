"""The panel of `14_inpainting`, as one sees it, and what Python puts into the same hole."""

import re

import pytest

from rar_nb.play.inpainting import (
    METHODS,
    Inpainting,
    cached_model,
    class_probabilities,
    fill_digit,
    fill_order,
    validation_digits,
)
from tests.browser.page import drag_over, wait

TOKENS = """
return [...arguments[0].querySelectorAll('.rar-fillings')].map(row => [...row.children].map(
  canvas => canvas.dataset.tokens?.split(' ').map(Number)));
"""


class HolePanel:
    """The panel of a page, and the state that it should have."""

    def __init__(self, driver, root):
        self.driver, self.root = driver, root
        state = Inpainting().live_state()
        names = ("digit", "hole", "how", "seed", "guidance_scale", "guess")
        self.state = {name: state[name] for name in names}
        self.picture = root.find_element("css selector", ".rar-picture")

    def drag(self, cells: list[int]):
        """Press the first cell, pass over the others, and let go."""
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.picture)
        drag_over(self.driver, self.picture, cells, 7)

    def choose(self, name: str, option: str):
        from selenium.webdriver.support.ui import Select

        path = f".//label[span='{name}']/select"
        Select(self.root.find_element("xpath", path)).select_by_visible_text(option)

    def texts(self, selector: str) -> list[str]:
        return [e.text for e in self.root.find_elements("css selector", selector)]

    def shows(self, seconds: float = 120, **changes):
        """Wait until the panel shows what Python makes of its state after these changes."""
        self.state |= changes
        digit, hole, how, seed, scale, guess = self.state.values()
        tokens, labels = validation_digits()[1].rows([digit])
        order, known = fill_order(tuple(hole), 7, how, seed), 49 - len(hole)
        classes = class_probabilities(cached_model("any order"), tokens[0], order, known)
        label = int(classes.argmax() if guess else labels)
        fillings = [
            fill_digit(tokens[0], tuple(hole), how, label, scale, seed, *method)
            for method in METHODS
        ]
        expected = [filling.tokens.tolist() for filling in fillings]
        found = []

        def there():
            found[:] = self.texts(".rar-methods p span")
            shown = self.driver.execute_script(TOKENS, self.root)
            return shown == expected and all(text.endswith(" nats") for text in found)

        wait(there, seconds, f"fillings of {self.state}")
        losses = [float(re.search(r"[\d.]+", text)[0]) for text in found]
        assert losses == pytest.approx([filling.loss for filling in fillings], abs=0.0051)
        numbers = self.texts(".rar-hole text")
        assert [i for i, text in enumerate(numbers) if text] == sorted(hole)
        assert sorted(hole, key=lambda cell: int(numbers[cell])) == order[0, known:].tolist()
        how = "true" if not guess else "guessed" if known else "a blind guess"
        assert f"class {label} ({how})" in self.root.text
        said = self.root.find_element("css selector", ".rar-classes").get_attribute("aria-label")
        shares = [int(share) for share in re.findall(r"\d: (\d+) %", said)]
        assert shares == pytest.approx([100 * p for p in classes.tolist()], abs=0.51)
