"""Creates a bucket if it is missing: ``python create_bucket.py NAME``.

Server and credentials come from the usual ``AWS_*`` variables.
"""

from __future__ import annotations

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

WITHOUT_CONSTRAINT = "us-east-1"
"""The one region that S3 wants not to be named."""
ALREADY_OURS = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


def main(bucket: str) -> None:
    """Create ``bucket``; one that is there already is fine."""
    retries = {"mode": "standard", "max_attempts": 10}
    client = boto3.client("s3", config=Config(retries=retries))
    region = client.meta.region_name
    elsewhere = region not in {None, WITHOUT_CONSTRAINT, "aws-global"}
    place = {"CreateBucketConfiguration": {"LocationConstraint": region}} if elsewhere else {}
    try:
        client.create_bucket(Bucket=bucket, **place)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ALREADY_OURS:
            raise
        print(f"bucket {bucket} was there")
    else:
        print(f"bucket {bucket} created")


if __name__ == "__main__":
    main(*sys.argv[1:])
