//! Conversion from the crate's types to ours.

use etcd_client::{EventType, ResponseHeader};

use palm_proto::{
    reflector::{Event, KeyValue},
    types::ids::{LeaseId, Revision},
};

/// Returns the revision in a response's header, which etcd always sets.
pub(super) fn revision_of(header: Option<&ResponseHeader>) -> Revision {
    Revision(header.map_or(0, ResponseHeader::revision))
}

/// Returns the items whose keys are UTF-8. PALM writes no other keys, and cannot use them.
pub(super) fn items(found: &[etcd_client::KeyValue]) -> Vec<KeyValue> {
    found.iter().filter_map(item).collect()
}

/// Returns one item, if its key is UTF-8.
pub(super) fn item(found: &etcd_client::KeyValue) -> Option<KeyValue> {
    Some(KeyValue {
        key: found.key_str().ok()?.to_owned(),
        value: found.value().to_vec(),
        lease: LeaseId::new(found.lease()),
        created: Revision(found.create_revision()),
        modified: Revision(found.mod_revision()),
    })
}

/// Returns one event, if its key is UTF-8.
pub(super) fn event(event: &etcd_client::Event) -> Option<Event> {
    let item = item(event.kv()?)?;
    Some(match event.event_type() {
        EventType::Put => Event::Put(item),
        EventType::Delete => Event::Deleted {
            key: item.key,
            revision: item.modified,
        },
    })
}
