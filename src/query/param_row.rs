//! The parameters of one statement, as a row of a bulk helper: a tuple, an array or a slice.

use postgres::types::ToSql;

/// The parameters `$1`, `$2`, … of a statement, for [`Bulk::execute_many`](crate::Bulk::execute_many).
///
/// Tuples of up to 16 values are rows of parameters, whether the values are owned or borrowed. So are arrays, vectors and slices
/// of `&(dyn ToSql + Sync)`, and references to all of these.
pub trait ParamRow {
    /// Calls `use_params` with the parameters.
    fn with_params<R>(&self, use_params: impl FnOnce(&[&(dyn ToSql + Sync)]) -> R) -> R;
}

/// No parameters.
impl ParamRow for () {
    fn with_params<R>(&self, use_params: impl FnOnce(&[&(dyn ToSql + Sync)]) -> R) -> R {
        use_params(&[])
    }
}

/// Parameters whose number and types are known only at run time, owned.
impl ParamRow for Vec<Box<dyn ToSql + Send + Sync>> {
    fn with_params<R>(&self, use_params: impl FnOnce(&[&(dyn ToSql + Sync)]) -> R) -> R {
        let params: Vec<&(dyn ToSql + Sync)> = self.iter().map(|param| &**param as _).collect();
        use_params(&params)
    }
}

impl<const N: usize> ParamRow for [&(dyn ToSql + Sync); N] {
    fn with_params<R>(&self, use_params: impl FnOnce(&[&(dyn ToSql + Sync)]) -> R) -> R {
        use_params(self)
    }
}

impl ParamRow for [&(dyn ToSql + Sync)] {
    fn with_params<R>(&self, use_params: impl FnOnce(&[&(dyn ToSql + Sync)]) -> R) -> R {
        use_params(self)
    }
}

impl ParamRow for Vec<&(dyn ToSql + Sync)> {
    fn with_params<R>(&self, use_params: impl FnOnce(&[&(dyn ToSql + Sync)]) -> R) -> R {
        use_params(self)
    }
}

impl<T: ParamRow + ?Sized> ParamRow for &T {
    fn with_params<R>(&self, use_params: impl FnOnce(&[&(dyn ToSql + Sync)]) -> R) -> R {
        (**self).with_params(use_params)
    }
}

macro_rules! tuples {
    ($(($($name:ident $index:tt),+))*) => {$(
        impl<$($name: ToSql + Sync),+> ParamRow for ($($name,)+) {
            fn with_params<R>(&self, use_params: impl FnOnce(&[&(dyn ToSql + Sync)]) -> R) -> R {
                use_params(&[$(&self.$index),+])
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14, P 15)
}
