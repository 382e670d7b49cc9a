"""The list of licences."""

import re
import sys

import pytest

from localdev.hosting import ROOT
from localdev.licences import HEADINGS, page
from tests.docs.pages import rows

PAGE = ROOT / "docs" / "licences.md"

PERMISSIVE = {
    *("0BSD", "Apache Software License", "Apache-2.0", "BlueOak-1.0.0", "BSD License", "BSD-2-Clause", "BSD-3-Clause"),
    *("ISC", "MIT", "MIT License", "MIT-0", "PSF-2.0", "Python Software Foundation License", "Unlicense"),
}
WEAK_COPYLEFT = {"MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)"}
"""They concern changes of the package itself, and no other code."""

STATED_AS_AN_ADDRESS = {"http://geraintluff.github.io/tv4/LICENSE.txt"}
"""Of uri-templates, which is used for development only."""


@pytest.mark.skipif(sys.platform != "linux", reason="the page lists what is installed on Linux")
def test_the_page_lists_the_installed_packages() -> None:
    """After a change of packages, run `make licences`."""
    assert PAGE.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("heading", HEADINGS.values())
def test_every_licence_is_accepted(heading: str) -> None:
    """No package asks that DataSync is published. A licence that is not known here needs a decision."""
    licences = {part for _, licence in rows(PAGE, heading) for part in re.split(r" AND | OR |; ", licence)}

    assert licences
    assert licences - PERMISSIVE - WEAK_COPYLEFT - STATED_AS_AN_ADDRESS == set()
