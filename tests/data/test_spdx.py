from __future__ import annotations

import pytest

from hf_mixture.data import spdx


MIT = """Copyright (c) 2024 Somebody
Permission is hereby granted, free of charge, to any person obtaining a copy of this software ... subject to
The above copyright notice and this permission notice shall be included in all copies"""
BSD_2 = """Redistributions of source code must retain the above copyright notice, this list of conditions
and the following disclaimer. Redistributions in binary form must reproduce the above copyright notice"""
BSD_3 = BSD_2 + "\nNeither the name of the copyright holder may be used to endorse or\n   promote products"
APACHE = "                                 Apache License\n                           Version 2.0, January 2004\n"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (("MIT", "Apache 2.0", [], [APACHE]), "MIT"),
        (("Apache-2.0 OR BSD-2-Clause", None, [], []), "Apache-2.0 OR BSD-2-Clause"),
        ((None, "Apache 2.0 License", [], []), "Apache-2.0"),
        ((None, "MIT License", [], []), "MIT"),
        ((None, "The MIT License", [], []), "MIT"),
        ((None, "BSD 3-Clause License", [], []), "BSD-3-Clause"),
        ((None, "MPL-2.0 AND MIT", [], []), "MPL-2.0 AND MIT"),
        ((None, None, ["License :: OSI Approved :: MIT License", "Topic :: Text"], []), "MIT"),
        ((None, "BSD", ["License :: OSI Approved :: BSD License"], []), "NOASSERTION"),
        ((None, "BSD", ["License :: OSI Approved :: BSD License"], [BSD_3]), "BSD-3-Clause"),
        ((None, None, [], [BSD_2]), "BSD-2-Clause"),
        ((None, MIT + " " * 200, [], []), "MIT"),
        ((None, None, [], [MIT, APACHE]), "NOASSERTION"),
        ((None, "see LICENSE", [], ["All rights reserved."]), "NOASSERTION"),
        (("not an expression!", None, [], []), "NOASSERTION"),
        ((None, None, [], []), "NOASSERTION"),
    ],
)
def test_expression_of_a_distribution(facts: tuple, expected: str) -> None:
    assert spdx.of_distribution(*facts) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("// SPDX-License-Identifier: Apache-2.0\nint x;", "Apache-2.0"),
        ("/* SPDX-License-Identifier: MIT OR Apache-2.0 */", "MIT OR Apache-2.0"),
        ("# SPDX-License-Identifier: (MIT OR Apache-2.0)\n", "(MIT OR Apache-2.0)"),
        ("# SPDX-License-Identifier: LicenseRef-NvidiaProprietary\n", "LicenseRef-NvidiaProprietary"),
        (
            "# SPDX-License-Identifier: GPL-2.0-only WITH Classpath-exception-2.0\n",
            "GPL-2.0-only WITH Classpath-exception-2.0",
        ),
        ("SPDX-License-Identifier: what ever this says", None),
        ("x" * 3000 + "SPDX-License-Identifier: MIT", None),
        ("no tag", None),
    ],
)
def test_tag_of_a_file(text: str, expected: str | None) -> None:
    assert spdx.of_file(text) == expected
