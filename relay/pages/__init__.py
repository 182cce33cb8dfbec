# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages for people with a browser: templates, languages, pictures; who serves them fills them in."""
