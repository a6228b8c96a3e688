"""The forms that the base's weights can be held in."""
