# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds the appliance's image from Debian packages, locked Python wheels and the playbook in ansible/.

Nothing is mounted through a loop device and nothing is run that the target's
processor alone can run, but package scripts and the playbook. Not a part of the
installed relay. `.ci/image` starts it as root in namespaces of its own.
"""
