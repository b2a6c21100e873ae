//! Builder methods for structs of public fields: a macro that writes `with_<field>` and demands one for each field.

/// Writes methods that set one field of a struct by value. The list does not compile if it leaves a field out; `except`
/// names the fields whose method is written by hand.
macro_rules! with_methods {
    ($name:ident { $($method:ident($field:ident: $type:ty),)+ } except { $($by_hand:ident),* }) => {
        impl $name {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](", stringify!($name), "::", stringify!($field), ").")]
                #[must_use]
                pub fn $method(mut self, $field: $type) -> $name {
                    self.$field = $field;
                    self
                }
            )+
        }

        const _: fn($name) = |$name { $($field: _,)+ $($by_hand: _,)* }| ();
    };
}

pub(crate) use with_methods;
