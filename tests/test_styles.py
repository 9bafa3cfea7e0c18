"""The extension that keeps only the style rules in use."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))

import styles


@pytest.mark.parametrize(
    ("css", "kept"),
    [
        (".a{color:red}", ".a{color:red}"),
        (".z{color:red}", ""),
        ("p{margin:0}", "p{margin:0}"),
        (".z,.a,p .z{color:red}", ".a{color:red}"),
        (".a .z{color:red}", ""),
        (".a:not(.z){color:red}", ".a:not(.z){color:red}"),
        (".a:is(.z,.y){color:red}", ".a:is(.z,.y){color:red}"),
        ("@media (max-width:9em){.a{color:red}.z{color:red}}", "@media (max-width:9em){.a{color:red}}"),
        ("@media print{.z{color:red}}", ""),
        (".w-1\\/2{width:50%}", ".w-1\\/2{width:50%}"),
        ("@font-face{font-family:x}", "@font-face{font-family:x}"),
        (
            '[data-x=".z"]{color:red}.a::after{content:".z,"}',
            '[data-x=".z"]{color:red}.a::after{content:".z,"}',
        ),
        ("@keyframes spin{to{opacity:0}}", "@keyframes spin{to{opacity:0}}"),
        (":root{--x:1px}", ":root{--x:1px}"),
    ],
)
def test_prune_drops_a_rule_only_if_no_selector_can_apply(css, kept):
    assert styles.prune(css, {"a"}) == kept
