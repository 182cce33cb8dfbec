# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference client: identities, contacts, sealed messages and what is kept of them on disk."""
