"""Settings of all tests, loaded by pytest before any of them; processes that tests start do not load it."""

from hypothesis import settings

settings.register_profile("tests", deadline=None, print_blob=True)  # shared machines stutter
settings.load_profile("tests")
