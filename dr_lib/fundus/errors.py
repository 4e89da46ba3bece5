"""Why a photograph that can be decoded still cannot be preprocessed."""


class UngradablePhoto(ValueError):
    """A photograph without a retina that can be located.

    `reason` is a short code for tables (`no_retina`, `no_border`, `low_confidence`); `detail` says more to a person.

    >>> error = UngradablePhoto("no_retina", "the photograph is black")
    >>> error.reason, str(error)
    ('no_retina', 'no_retina: the photograph is black')
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
