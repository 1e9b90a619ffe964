"""The error of a sequence that another setting of its data set may read."""

__all__ = ["NoClassError", "SettingError"]


class SettingError(ValueError):
    """What cannot be read as it is set.

    Args:
        message: One line that names the setting.
        plain: The same for who has no such setting, as where a trained model reads a file.
    """

    def __init__(self, message: str, plain: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.plain = plain


class NoClassError(SettingError):
    """A file that says no class where one is asked for."""
