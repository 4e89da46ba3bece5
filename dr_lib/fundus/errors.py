"""Why a photograph that can be decoded still cannot be preprocessed."""

from dr_lib.fundus.photo import UnusablePhoto


class UngradablePhoto(UnusablePhoto):
    """A photograph without a retina that can be located.

    `reason` is a short code for tables (`no_retina`, `no_border`, `not_round`, `two_eyes`,
    `wide_field`); `detail` says more to a person.

    >>> error = UngradablePhoto("no_retina", "the photograph is black")
    >>> error.reason, str(error)
    ('no_retina', 'no_retina: the photograph is black')
    """
