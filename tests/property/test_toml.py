# SPDX-License-Identifier: GPL-2.0-or-later
import datetime as dt
import math
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from relay.config.toml_write import write_toml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = (
    TEXT
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.dates(min_value=dt.date(1, 1, 1))
    | st.datetimes(timezones=st.just(dt.UTC))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, VALUES, max_size=6))
def test_what_is_written_reads_as_what_it_was(document):
    assert tomllib.loads(write_toml(document)) == document


def test_what_is_not_a_number_stays_so():
    assert math.isnan(tomllib.loads(write_toml({"x": math.nan}))["x"])
