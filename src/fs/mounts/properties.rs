//! Random lines, and lines with random mount points.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::properties::holds;

/// Any byte. Bytes with a meaning in mountinfo come often.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![Just(b' '), Just(b'\\'), Just(b'\n'), b'0'..=b'9', any::<u8>()]
}

#[test]
fn any_line_is_read_or_passed_over() {
    holds(&vec(byte(), 0..60), |line| _ = Mount::parse(&line));
}

#[test]
fn any_mount_point_is_read_as_it_is() {
    let point = vec(byte().prop_filter("no path holds it", |byte| *byte != 0), 0..20);
    holds(&(any::<u64>(), point), |(id, point)| {
        let mut line = format!("{id} 35 98:0 / /").into_bytes();
        for byte in &point {
            match byte {
                // Escaped as the kernel does.
                b' ' | b'\t' | b'\n' | b'\\' => line.extend(format!("\\{byte:03o}").bytes()),
                byte => line.push(*byte),
            }
        }
        line.extend(b" rw shared:1 - ext4 /dev/sda rw");
        let mount = Mount::parse(&line).unwrap();
        assert_eq!((mount.id, &*mount.device), (id, "98:0"));
        assert_eq!(mount.point.into_os_string().into_vec(), [b"/", &point[..]].concat());
    });
}
