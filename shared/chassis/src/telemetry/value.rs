//! Attribute values of spans.

/// The value of a span's attribute.
#[derive(Debug, Clone, PartialEq)]
pub struct Value(pub(super) opentelemetry::Value);

macro_rules! value_from_integer {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Value {
            fn from(value: $integer) -> Self {
                Self(opentelemetry::Value::I64(i64::try_from(value).unwrap_or(i64::MAX)))
            }
        }
    )*};
}

macro_rules! value_from {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Value {
            fn from(value: $kind) -> Self {
                Self(value.into())
            }
        }
    )*};
}

value_from_integer!(u8, u16, u32, u64, usize, i32);
value_from!(i64, f64, bool, String, &'static str);

impl From<f32> for Value {
    fn from(value: f32) -> Self {
        Self(f64::from(value).into())
    }
}
