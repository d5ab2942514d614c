//! From the crate's types to ours.

use etcd_client::{EventType, ResponseHeader};

use palm_proto::{
    reflector::{Event, KeyValue},
    types::ids::{LeaseId, Revision},
};

/// The revision in an answer's header. etcd sets it always.
pub(super) fn revision_of(header: Option<&ResponseHeader>) -> Revision {
    Revision(header.map_or(0, ResponseHeader::revision))
}

/// The items whose keys are text. A key that is not was written by somebody else: PALM can neither name nor use it.
pub(super) fn items(found: &[etcd_client::KeyValue]) -> Vec<KeyValue> {
    found.iter().filter_map(item).collect()
}

/// One item, if its key is text.
pub(super) fn item(found: &etcd_client::KeyValue) -> Option<KeyValue> {
    Some(KeyValue {
        key: found.key_str().ok()?.to_owned(),
        value: found.value().to_vec(),
        lease: LeaseId::new(found.lease()),
        created: Revision(found.create_revision()),
        modified: Revision(found.mod_revision()),
    })
}

/// One event, if its key is text.
pub(super) fn event(event: &etcd_client::Event) -> Option<Event> {
    let item = item(event.kv()?)?;
    Some(match event.event_type() {
        EventType::Put => Event::Put(item),
        EventType::Delete => Event::Deleted { key: item.key, revision: item.modified },
    })
}
