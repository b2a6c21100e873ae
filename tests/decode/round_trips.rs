//! Random values go to the server as parameters and come back as rows.

use super::{POOL, one};
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use poolhouse::{Execute, ToSql};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use uuid::Uuid;

/// Sends `value` to the server and reads it back.
fn echo<T: DeserializeOwned>(sql: &str, value: &(dyn ToSql + Sync)) -> T {
    POOL.execute_query_one(sql, &[value]).expect("the row decodes").expect("there is a row")
}

proptest! {
    #[test]
    fn whatever_the_server_stores_comes_back(
        int in any::<i64>(),
        float in any::<f64>(),
        single in any::<f32>(),
        text in "[^\0]*",
        bytes in any::<Vec<u8>>(),
        array in any::<Vec<Option<i32>>>(),
        uuid in any::<[u8; 16]>(),
        // Every microsecond that both PostgreSQL and chrono know.
        micros in -210_866_803_200_000_000_i64..8_210_266_876_799_999_999,
    ) {
        prop_assert_eq!(echo::<i64>("SELECT $1::int8", &int), int);
        prop_assert_eq!(echo::<(i64, String)>("SELECT n::numeric, n::numeric FROM (SELECT $1::int8) AS i(n)", &int), (int, int.to_string()));
        prop_assert_eq!(echo::<f64>("SELECT $1::float8", &float).to_bits(), float.to_bits());
        prop_assert_eq!(echo::<f32>("SELECT $1::float4", &single).to_bits(), single.to_bits());
        prop_assert_eq!(&echo::<String>("SELECT $1::text", &text), &text);
        prop_assert_eq!(&echo::<(Vec<u8>,)>("SELECT $1::bytea", &bytes).0, &bytes);
        prop_assert_eq!(echo::<ByteBuf>("SELECT $1::bytea", &bytes).into_vec(), bytes);
        prop_assert_eq!(&echo::<(Vec<Option<i32>>,)>("SELECT $1::int4[]", &array).0, &array);
        prop_assert_eq!(echo::<(Value,)>("SELECT $1::int4[]", &array).0, json!(array));
        prop_assert_eq!(echo::<Uuid>("SELECT $1::uuid", &Uuid::from_bytes(uuid)), Uuid::from_bytes(uuid));
        let moment = DateTime::from_timestamp_micros(micros).unwrap();
        prop_assert_eq!(echo::<DateTime<Utc>>("SELECT $1::timestamptz", &moment), moment);
        let local = moment.naive_utc();
        prop_assert_eq!(echo::<NaiveDateTime>("SELECT $1::timestamp", &local), local);
        prop_assert_eq!(
            echo::<(NaiveDate, NaiveTime)>("SELECT t::date, t::time FROM (SELECT $1::timestamp) AS m(t)", &local),
            (local.date(), local.time())
        );
    }

    #[test]
    fn every_decimal_comes_back_digit_by_digit(text in "-?[1-9][0-9]{0,40}(\\.[0-9]{1,40})?|0\\.[0-9]{0,60}[1-9]") {
        prop_assert_eq!(one::<String>(&format!("SELECT '{text}'::numeric")), text.clone());
        prop_assert_eq!(one::<f64>(&format!("SELECT '{text}'::numeric")), text.parse::<f64>().unwrap());
        let theirs: f32 = text.parse().unwrap();
        if theirs.is_finite() {
            prop_assert_eq!(one::<f32>(&format!("SELECT '{text}'::numeric")), theirs);
        }
    }

    #[test]
    fn a_float4_that_describes_itself_is_still_the_same(single in any::<f32>()) {
        match echo::<(Value,)>("SELECT $1::float4", &single).0 {
            Value::Number(number) => prop_assert_eq!(number.as_f64().unwrap() as f32, single),
            text if single.is_nan() => prop_assert_eq!(text, json!("NaN")),
            text => prop_assert_eq!(text, json!(if single > 0.0 { "Infinity" } else { "-Infinity" })),
        }
    }
}
