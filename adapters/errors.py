"""Errors for people. Each message is one line: what was got, what was wanted, what to do.

TallyError                exit 2   wrong use, or something outside is not as it must be
+-- CheckFailed           exit 1   a check ran and found a difference
+-- ServerFailed          exit 2   an embedded server did not start, or died
+-- NotConfigured         exit 2   no endpoint is known for something that is needed
"""


class TallyError(Exception):
    exit_code = 2


class CheckFailed(TallyError):
    exit_code = 1


class ServerFailed(TallyError):
    pass


class NotConfigured(TallyError):
    pass
