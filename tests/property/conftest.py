"""One profile for all properties: the same examples in every run, as long as they need."""

import hypothesis

hypothesis.settings.register_profile("same", deadline=None, derandomize=True, database=None)
# New examples in each run: pytest --hypothesis-profile=new
hypothesis.settings.register_profile("new", deadline=None, database=None)
hypothesis.settings.load_profile("same")
