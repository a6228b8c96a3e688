"""Configs and command lines of other tools."""
