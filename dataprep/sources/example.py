"""The protocol buffer tf.Example, described here so that TensorFlow need not be installed.

Lists of floats are left out of the description, so they are skipped.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

SCHEMA = """
name: "example.proto" package: "dataprep" syntax: "proto3"
message_type {
  name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
}
message_type {
  name: "Feature"
  field { name: "bytes_list" number: 1 type_name: "BytesList" }
  field { name: "int64_list" number: 3 type_name: "Int64List" }
}
message_type {
  name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type_name: "FeatureEntry" }
  nested_type {
    name: "FeatureEntry"
    options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type_name: "Feature" }
  }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 type_name: "Features" }
}
"""


def message(name: str) -> Any:
    pool = descriptor_pool.DescriptorPool()  # our own: TensorFlow may be in the default one
    pool.Add(text_format.Parse(SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"dataprep.{name}"))


Example = message("Example")
