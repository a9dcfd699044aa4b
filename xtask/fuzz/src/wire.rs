//! What agent and master read of each other.

use grid_platform_api::LogCursor;
use grid_proto::{
    Fence, Observation, Wish, log_item_from_wire, log_item_to_wire, report_from_json,
    report_to_json, v1,
};
use prost::Message;

/// A cursor of any text is refused, or is what it is written as.
pub fn cursor(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(cursor) = text.parse::<LogCursor>() {
        let written = cursor.to_string();
        assert_eq!(written.parse::<LogCursor>().unwrap(), cursor);
    }
}

/// Messages of any bytes, and any text in the place of JSON: what can be read comes back when it is sent again.
pub fn wire(bytes: &[u8]) {
    let _ = v1::FromAgent::decode(bytes);
    let _ = v1::FromMaster::decode(bytes);
    if let Ok(node) = v1::DesiredNode::decode(bytes) {
        wish(node);
    }
    if let Ok(item) = v1::LogItem::decode(bytes)
        && let Ok(item) = log_item_from_wire(item)
    {
        let again = log_item_from_wire(log_item_to_wire(item.clone()));
        assert_eq!(again.unwrap(), item);
    }
    if let Ok(fence) = v1::Fence::decode(bytes)
        && let Ok(fence) = Fence::try_from(fence)
    {
        assert_eq!(Fence::try_from(v1::Fence::from(&fence)).unwrap(), fence);
    }
    let Ok(json) = std::str::from_utf8(bytes) else {
        return;
    };
    wish(v1::DesiredNode {
        node_id: "n1".to_owned(),
        state: v1::DesiredState::Running.into(),
        spec_json: json.to_owned(),
        ..v1::DesiredNode::default()
    });
    let observed = v1::NodeObserved {
        node_json: json.to_owned(),
        managed: true,
    };
    if let Ok(it) = Observation::try_from(observed) {
        let again = Observation::try_from(v1::NodeObserved::from(&it));
        assert_eq!(again.unwrap(), it);
    }
    if let Some(report) = report_from_json(json) {
        assert_eq!(report_from_json(&report_to_json(&report)), Some(report));
    }
}

fn wish(node: v1::DesiredNode) {
    if let Ok(wish) = Wish::try_from(node) {
        let again = Wish::try_from(v1::DesiredNode::from(&wish));
        assert_eq!(again.unwrap(), wish);
    }
}
