# Short names for the scripts in bin/, which do the work.
.PHONY: setup test check

setup:
	bin/setup

test:
	bin/test

check:
	bin/test --all
