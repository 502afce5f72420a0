"""What is printed of an address holds no password."""

import pytest

from adapters.masking import masked, masked_endpoints


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://postgres:s3cret@127.0.0.1:5432/postgres", "postgresql://postgres:***@127.0.0.1:5432/postgres"),
        ("postgresql://u:p@ss:w@h/db?sslmode=require", "postgresql://u:***@h/db?sslmode=require"),
        ("postgresql://h/db?user=u&password=s3cret&a=b", "postgresql://h/db?user=u&password=***&a=b"),
        ("host=h password='s3 cr\\'et' user=u", "host=h password=*** user=u"),
        ("redis://:s3cret@h:6379/0", "redis://:***@h:6379/0"),
        ("rediss://u@h:6379/0", "rediss://u@h:6379/0"),
        ("nats://u:s3cret@a:4222,nats://u:other@b:4222", "nats://u:***@a:4222,nats://u:***@b:4222"),
        ("nats://t0ken@a:4222", "nats://***@a:4222"),
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("sqlite:////data/iceberg/catalog.db", "sqlite:////data/iceberg/catalog.db"),
        ("/data/published", "/data/published"),
    ],
)
def test_an_address_keeps_everything_but_its_password(address, shown):
    assert masked(address) == shown


def test_of_the_endpoints_what_is_no_text_stays_as_it_is():
    assert masked_endpoints({"redis": "redis://:x@h", "pid": 7, "tenants": ["a"]}) == {
        "redis": "redis://:***@h",
        "pid": 7,
        "tenants": ["a"],
    }
