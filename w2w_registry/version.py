"""The release. A module of its own, so that a room that records it does not import the whole house."""

__version__ = "0.1.0"
