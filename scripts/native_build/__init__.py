"""The parts of scripts/setup_native.py: what machine this is, how to build for it, the build, the check, the install.

Standard library only: it runs before anything is installed.
"""
