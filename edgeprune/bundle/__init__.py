"""The bundle: the only thing that crosses from the host to the device. ``README.md`` beside this file specifies it."""
