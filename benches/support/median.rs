//! The median.

use std::cmp::Ordering::Equal;

/// The value in the middle; of an even number of them the greater of the two; nothing's default.
pub fn median<T: Copy + Default + PartialOrd>(values: &[T]) -> T {
    let mut values = values.to_vec();
    values.sort_unstable_by(|one, other| one.partial_cmp(other).unwrap_or(Equal));
    values.get(values.len() / 2).copied().unwrap_or_default()
}
