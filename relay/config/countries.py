# SPDX-License-Identifier: GPL-2.0-or-later
"""The countries whose rules radios may be asked to keep."""

from __future__ import annotations

from typing import Final

from relay.config.settings import BadValueError

#: ISO 3166-1 alpha-2. For a third of them Linux's regulatory database has no rules; `relay net` says so then, and
#: the radio keeps to those that are right everywhere.
_LIST: Final = """
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ
CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR
GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP
KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT
MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW
SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ
UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
"""
COUNTRIES: Final = frozenset(_LIST.split())
#: What people write, and what is meant.
_NOT_COUNTRIES: Final = {"UK": 'the United Kingdom is "GB"', "EU": 'there is no "EU"; name the country you are in'}


def country(value: object) -> str:
    """Check two letters, or "" for none; return them as capitals."""
    if not isinstance(value, str):
        raise BadValueError('write two letters in quotes, such as "DE"; "" is none, and leaves Wi-Fi off')
    code = value.strip().upper()
    if code and code not in COUNTRIES:
        remedy = _NOT_COUNTRIES.get(code, 'write the two letters of ISO 3166, such as "DE"')
        raise BadValueError(f'{remedy}; "" is none, and leaves Wi-Fi off')
    return code
