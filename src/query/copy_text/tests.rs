use super::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn lines(types: &[Type], row: &impl Serialize) -> Result<String, String> {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let mut writer = RowWriter::new(NAMES.into_iter().zip(types));
    writer.push(row).map_err(|error| error.to_string())?;
    Ok(writer.text().to_owned())
}

/// The text of one value.
fn cell(type_: Type, value: &impl Serialize) -> Result<String, String> {
    lines(&[type_], &(value,)).map(|line| line.trim_end_matches('\n').to_owned())
}

#[test]
fn what_has_a_meaning_in_the_format_is_escaped() {
    let escaped = [
        ("\\N", "\\\\N"),
        ("\\.", "\\\\."),
        ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        ("", ""),
        ("\u{8}\u{b}\u{c} 'ä\"", "\u{8}\u{b}\u{c} 'ä\""),
    ];
    for (value, text) in escaped {
        assert_eq!(cell(Type::TEXT, &value).unwrap(), text);
    }
    let error = cell(Type::TEXT, &"a\0b").unwrap_err();
    assert!(error.starts_with("column \"a\" (text): ") && error.contains("zero"), "{error}");
}

#[test]
fn scalars_are_written_as_their_types_read_them() {
    assert_eq!(cell(Type::BOOL, &true).unwrap(), "true");
    assert_eq!(cell(Type::INT8, &i64::MIN).unwrap(), "-9223372036854775808");
    assert_eq!(cell(Type::NUMERIC, &u128::MAX).unwrap(), "340282366920938463463374607431768211455");
    assert_eq!(cell(Type::FLOAT8, &1e300).unwrap(), "1e300");
    assert_eq!(cell(Type::FLOAT8, &0.1).unwrap(), "0.1");
    assert_eq!(cell(Type::FLOAT4, &f32::NEG_INFINITY).unwrap(), "-Infinity");
    assert_eq!(cell(Type::FLOAT8, &f64::NAN).unwrap(), "NaN");
    assert_eq!(cell(Type::TEXT, &'ß').unwrap(), "ß");
    assert_eq!(cell(Type::TEXT, &None::<&str>).unwrap(), "\\N");
    assert_eq!(cell(Type::TEXT, &Some("x")).unwrap(), "x");
    assert_eq!(cell(Type::BYTEA, &vec![0_u8, 255]).unwrap(), "\\\\x00ff");
    assert_eq!(cell(Type::BYTEA, &serde_bytes::Bytes::new(b"\x01\\")).unwrap(), "\\\\x015c");
    assert_eq!(cell(Type::UUID, &uuid::Uuid::nil()).unwrap(), "00000000-0000-0000-0000-000000000000");
}

#[test]
fn arrays_quote_their_elements() {
    assert_eq!(cell(Type::INT4_ARRAY, &[1, 2]).unwrap(), r#"{"1","2"}"#);
    assert_eq!(cell(Type::INT4_ARRAY, &[[1, 2], [3, 4]]).unwrap(), r#"{{"1","2"},{"3","4"}}"#);
    assert_eq!(cell(Type::TEXT_ARRAY, &Vec::<String>::new()).unwrap(), "{}");
    assert_eq!(cell(Type::TEXT_ARRAY, &[Some("NULL"), None]).unwrap(), r#"{"NULL",NULL}"#);
    // Once for the array, and once more for COPY.
    assert_eq!(cell(Type::TEXT_ARRAY, &["a\"b\\", "{,}"]).unwrap(), r#"{"a\\"b\\\\","{,}"}"#);
    assert_eq!(cell(Type::JSONB_ARRAY, &[json!([1])]).unwrap(), r#"{"[1]"}"#);
}

#[test]
fn documents_are_json_and_none_is_no_document() {
    assert_eq!(cell(Type::JSONB, &json!({"a": [1, "x"]})).unwrap(), r#"{"a":[1,"x"]}"#);
    assert_eq!(cell(Type::JSON, &"x\n").unwrap(), r#""x\\n""#);
    assert_eq!(cell(Type::JSON, &Value::Null).unwrap(), "null");
    assert_eq!(cell(Type::JSON, &None::<Value>).unwrap(), "\\N");
    assert_eq!(cell(Type::JSON, &(1, true)).unwrap(), "[1,true]");
}

#[test]
fn a_value_that_does_not_fit_names_its_column_and_type() {
    for (type_, value) in [
        (Type::TEXT, json!([1])),
        (Type::INT4, json!({"a": 1})),
        (Type::INT4_ARRAY, json!(1)),
        (Type::BYTEA, json!("x")),
        (Type::BYTEA, json!([256])),
    ] {
        let name = type_.name().to_owned();
        let error = cell(type_, &value).unwrap_err();
        assert!(error.starts_with(&format!("column \"a\" ({name}): ")), "{error}");
    }
}

#[test]
fn structs_are_written_by_name_and_tuples_by_position() {
    #[derive(Serialize)]
    struct Named {
        other: bool,
        b: &'static str,
        a: i32,
    }
    let types = [Type::INT4, Type::TEXT];
    assert_eq!(lines(&types, &Named { other: true, b: "x", a: 1 }).unwrap(), "1\tx\n");
    assert_eq!(lines(&types, &BTreeMap::from([("b", 2), ("a", 1), ("z", 3)])).unwrap(), "1\t2\n");
    assert_eq!(lines(&types, &(1, "x")).unwrap(), "1\tx\n");
    assert_eq!(lines(&types, &[Some(1), None]).unwrap(), "1\t\\N\n");
    assert_eq!(lines(&types[..1], &5).unwrap(), "5\n");
    let error = lines(&types, &BTreeMap::from([("a", 1)])).unwrap_err();
    assert_eq!(error, "the row has no value for column \"b\"");
    assert!(lines(&types, &(1,)).unwrap_err().contains("no value for column \"b\""));
    assert!(lines(&types, &(1, 2, 3)).unwrap_err().contains("more values than the 2 columns"));
    assert!(lines(&types, &7).unwrap_err().contains("a single value"));
}

#[test]
fn a_row_that_does_not_fit_leaves_the_others() {
    let mut writer = RowWriter::new([("a", &Type::INT4), ("b", &Type::TEXT)].into_iter());
    writer.push(&(1, "x")).unwrap();
    writer.push(&(2, "\0")).unwrap_err();
    writer.push(&(3, "y")).unwrap();
    assert_eq!(writer.text(), "1\tx\n3\ty\n");
}
