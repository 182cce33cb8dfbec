# SPDX-License-Identifier: GPL-2.0-or-later
"""What organisers and participants read on paper or on the card: handbook, card, poster; from one text per language.

`relay appliance papers` writes those that are alike everywhere (docs/organisers, from
where the image build takes them), `relay appliance cards` the poster of each relay.
"""
