"""A small judge of JSON Schema: the keywords that the published schema uses, no more."""

import re
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}
KEYWORDS = {
    "type", "enum", "const", "pattern", "minimum", "properties", "additionalProperties", "required",
    "propertyNames", "items", "anyOf", "$ref", "$defs", "$schema", "title", "description",
}  # fmt: skip


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Whether a value has the schema's form."""
    assert set(schema) <= KEYWORDS, set(schema) - KEYWORDS
    if "$ref" in schema and not accepts(root["$defs"][schema["$ref"].rpartition("/")[2]], value, root):
        return False
    if "anyOf" in schema and not any(accepts(form, value, root) for form in schema["anyOf"]):
        return False
    if "type" in schema:
        wanted = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is(value, kind) for kind in wanted):
            return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if isinstance(value, int | float) and "minimum" in schema and value < schema["minimum"]:
        return False
    if isinstance(value, list):
        return all(accepts(schema.get("items", {}), item, root) for item in value)
    return not isinstance(value, dict) or _mapping(schema, value, root)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind])


def _mapping(schema: dict[str, Any], value: dict[str, Any], root: dict[str, Any]) -> bool:
    fields = schema.get("properties", {})
    rest = schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            return False
    for name, item in value.items():
        form = fields.get(name, rest)
        if form is False or (form is not True and not accepts(form, item, root)):
            return False
        if not accepts(schema.get("propertyNames", {}), name, root):
            return False
    return True
