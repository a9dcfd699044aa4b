//! What the handlers' types do not say of themselves in the API's description.

use serde_json::Value;

/// Adds the largest value of each unsigned number, which its format alone tells nobody, and takes `null` away from
/// parameters: a query and a header have texts, and one that may be left out is left out.
pub(super) fn finish(document: &mut Value) {
    match document {
        Value::Object(fields) => {
            // utoipa writes them with a hyphen; the registry of formats has none.
            let known = match fields.get("format").and_then(Value::as_str) {
                Some("u-int16") => Some(("uint16", u16::MAX.into())),
                Some("u-int32") => Some(("uint32", u32::MAX.into())),
                Some("u-int64") => Some(("uint64", u64::MAX)),
                _ => None,
            };
            if let Some((format, largest)) = known {
                fields.insert("format".to_owned(), format.into());
                fields.insert("maximum".to_owned(), largest.into());
            }
            for parameter in fields
                .get_mut("parameters")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                if let Some(schema) = parameter.get_mut("schema") {
                    not_null(schema);
                }
            }
            fields.values_mut().for_each(finish);
        }
        Value::Array(items) => items.iter_mut().for_each(finish),
        _ => {}
    }
}

fn not_null(schema: &mut Value) {
    if let Some(kind) = schema.get_mut("type")
        && let Some(types) = kind.as_array_mut()
    {
        types.retain(|it| it != "null");
        if let [only] = types.as_slice() {
            *kind = only.clone();
        }
    }
    if let Some(choices) = schema.get_mut("oneOf").and_then(Value::as_array_mut) {
        choices.retain(|it| it["type"] != "null");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_have_ends_and_parameters_are_not_null() {
        let mut document = json!({
            "parameters": [
                {"schema": {"type": ["integer", "null"], "format": "u-int64"}},
                {"schema": {"oneOf": [{"type": "null"}, {"type": "string"}]}},
            ],
            "body": {"type": ["integer", "null"], "format": "u-int16"},
        });
        finish(&mut document);
        let expect = json!({
            "parameters": [
                {"schema": {"type": "integer", "format": "uint64", "maximum": u64::MAX}},
                {"schema": {"oneOf": [{"type": "string"}]}},
            ],
            "body": {"type": ["integer", "null"], "format": "uint16", "maximum": 65535},
        });
        assert_eq!(document, expect);
    }

    #[test]
    fn the_masters_own_numbers_have_ends() {
        let document: Value = serde_json::from_str(&super::super::openapi()).unwrap();
        let events = &document["paths"]["/api/grid/events"]["get"]["parameters"];
        let expect =
            json!({"type": "integer", "format": "uint64", "minimum": 0, "maximum": u64::MAX});
        assert_eq!(events[0]["schema"], expect);
        let settings = &document["components"]["schemas"]["NodeSettings"]["properties"];
        assert_eq!(settings["port"]["maximum"], u16::MAX);
    }
}
