//! Scenario 7: an event leads to two others, and who waits for both acts once, whichever comes first.

use std::collections::BTreeSet;

use kernel::{Message, Result, Transaction};
use platform_tests::{
    Platform, Setup,
    team::{Member, note_effect},
    wait,
};
use serde::{Deserialize, Serialize};
use subjects::audit::v1::Outcome;
use subjects::{ConsumerContract, Event, EventContract, ServiceContract};

macro_rules! event {
    ($event:ident, $contract:ident, $service:literal, $subject:literal) => {
        #[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct $event {
            #[prost(string, tag = "1")]
            order_id: String,
        }

        static $contract: EventContract = EventContract {
            subject: $subject,
            service: $service,
            message: "test.Event",
            description: "A step of an order.",
            target_type: "order",
            outcome: Outcome::Success,
        };

        impl Event for $event {
            const CONTRACT: &'static EventContract = &$contract;

            fn target_id(&self) -> &str {
                &self.order_id
            }
        }
    };
}

event!(OrderPlaced, ORDER_PLACED, "orders", "evt.orders.order.placed");
event!(StockReserved, STOCK_RESERVED, "stock", "evt.stock.order.reserved");
event!(OrderCharged, ORDER_CHARGED, "billing", "evt.billing.order.charged");
event!(OrderShipped, ORDER_SHIPPED, "shipping", "evt.shipping.order.shipped");

const PART: ServiceContract = ServiceContract {
    name: "",
    version: "1.0.0",
    description: "Takes its part in an order.",
    endpoints: &[],
    events: &[],
    calls: &[],
    consumers: &[],
    watches: &[],
    buckets: &[],
    enqueues: &[],
    jobs: &[],
};

static ORDERS: ServiceContract = ServiceContract { name: "orders", events: &[&ORDER_PLACED], ..PART };
static STOCK: ServiceContract = ServiceContract {
    name: "stock",
    events: &[&STOCK_RESERVED],
    consumers: &[ConsumerContract { stream: "EVENTS", durable: "stock", filters: &["evt.orders.order.placed"] }],
    ..PART
};
static BILLING: ServiceContract = ServiceContract {
    name: "billing",
    events: &[&ORDER_CHARGED],
    consumers: &[ConsumerContract { stream: "EVENTS", durable: "billing", filters: &["evt.orders.order.placed"] }],
    ..PART
};
static SHIPPING: ServiceContract = ServiceContract {
    name: "shipping",
    events: &[&ORDER_SHIPPED],
    consumers: &[ConsumerContract {
        stream: "EVENTS",
        durable: "shipping",
        filters: &["evt.billing.order.charged", "evt.stock.order.reserved"],
    }],
    ..PART
};

struct Part;

/// Each placed order is reserved, once.
async fn reserve(transaction: &mut Transaction, messages: &[Message]) -> Result<()> {
    for message in messages {
        let OrderPlaced { order_id } = message.decode()?;
        note_effect(transaction, &order_id).await?;
        transaction.publish(&StockReserved { order_id }).await?;
    }
    Ok(())
}

/// Each placed order is charged, once.
async fn charge(transaction: &mut Transaction, messages: &[Message]) -> Result<()> {
    for message in messages {
        let OrderPlaced { order_id } = message.decode()?;
        note_effect(transaction, &order_id).await?;
        transaction.publish(&OrderCharged { order_id }).await?;
    }
    Ok(())
}

/// An order is shipped when it has been reserved and charged. Both steps lie in one table, under the order's lock: two
/// instances that each have one of them do not both see one only.
async fn ship(transaction: &mut Transaction, messages: &[Message]) -> Result<()> {
    let mut steps = Vec::new();
    for message in messages {
        steps.push(if message.subject() == STOCK_RESERVED.subject {
            (message.decode::<StockReserved>()?.order_id, "reserved")
        } else {
            (message.decode::<OrderCharged>()?.order_id, "charged")
        });
    }
    // One order of locks for everybody.
    steps.sort();
    for (order_id, step) in steps {
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
        sqlx::query(lock).bind(&order_id).execute(&mut **transaction).await?;
        note_effect(transaction, &format!("{order_id} {step}")).await?;
        let both = "SELECT count(*) = 2 FROM effects WHERE name IN ($1 || ' reserved', $1 || ' charged')";
        let both: bool = sqlx::query_scalar(both).bind(&order_id).fetch_one(&mut **transaction).await?;
        if both {
            note_effect(transaction, &format!("{order_id} shipped")).await?;
            transaction.publish(&OrderShipped { order_id }).await?;
        }
    }
    Ok(())
}

async fn stock(platform: &Platform) -> Member<Part> {
    platform
        .start_member(&STOCK, Part, |consumers| {
            consumers.batch("EVENTS", "stock", |_, tx, messages| Box::pin(reserve(tx, messages)));
        })
        .await
}

async fn billing(platform: &Platform) -> Member<Part> {
    platform
        .start_member(&BILLING, Part, |consumers| {
            consumers.batch("EVENTS", "billing", |_, tx, messages| Box::pin(charge(tx, messages)));
        })
        .await
}

async fn shipping(platform: &Platform) -> Member<Part> {
    platform
        .start_member(&SHIPPING, Part, |consumers| {
            consumers.batch("EVENTS", "shipping", |_, tx, messages| Box::pin(ship(tx, messages)));
        })
        .await
}

async fn place(orders: &Member<Part>, order_id: &str) {
    let mut transaction = orders.database.begin(&orders.context()).await.unwrap();
    note_effect(&mut transaction, order_id).await.unwrap();
    transaction.publish(&OrderPlaced { order_id: order_id.to_owned() }).await.unwrap();
    transaction.commit().await.unwrap();
}

/// Waits until the effects of shipping are these, by the last word of their names.
async fn steps_of(shipping: &Member<Part>, order_id: &str) -> BTreeSet<String> {
    let effects = shipping.effects().await;
    let of_order = effects.iter().filter_map(|effect| effect.strip_prefix(order_id)?.strip_prefix(' '));
    of_order.map(str::to_owned).collect()
}

#[tokio::test]
async fn order_is_shipped_once_whichever_of_its_two_steps_comes_first() {
    let platform = Setup::new().own_servers().without_services().start().await;
    platform.admit(&[&ORDERS, &STOCK, &BILLING, &SHIPPING]).await;
    let orders = platform.start_member(&ORDERS, Part, |_| {}).await;
    let first_shipping = shipping(&platform).await;
    let second_shipping = shipping(&platform).await;

    // Reserved first: nobody charges yet.
    let reserving = stock(&platform).await;
    place(&orders, "reserved-first").await;
    wait::until("the order is reserved", async || {
        (steps_of(&first_shipping, "reserved-first").await.contains("reserved")).then_some(())
    })
    .await;
    assert_eq!(steps_of(&first_shipping, "reserved-first").await.len(), 1, "it is not shipped by half");
    reserving.stop().await;

    // Charged first: nobody reserves now.
    let charging = billing(&platform).await;
    place(&orders, "charged-first").await;
    wait::until("the order is charged", async || {
        (steps_of(&first_shipping, "charged-first").await.contains("charged")).then_some(())
    })
    .await;
    let reserving = stock(&platform).await;

    // Many at once, in whatever order.
    for number in 0..30 {
        place(&orders, &format!("order-{number:02}")).await;
    }
    first_shipping.has_effects(32 * 3).await;

    let mut database = platform.superuser().await;
    let shipped: Vec<String> = sqlx::query_scalar(
        "SELECT convert_from(payload, 'UTF8')::json ->> 'orderId' FROM shipping.outbox WHERE subject = $1 ORDER BY 1",
    )
    .bind(ORDER_SHIPPED.subject)
    .fetch_all(&mut database)
    .await
    .unwrap();
    let orders_placed = orders.effects().await;
    assert_eq!(shipped, orders_placed, "each once");

    // One order is one trace from its first event to its last.
    let traces: Vec<String> = sqlx::query_scalar(
        "SELECT split_part(headers ->> 'traceparent', '-', 2) FROM (
             SELECT headers, payload FROM orders.outbox WHERE stream = 'EVENTS'
             UNION ALL SELECT headers, payload FROM stock.outbox WHERE stream = 'EVENTS'
             UNION ALL SELECT headers, payload FROM billing.outbox WHERE stream = 'EVENTS') AS event
         WHERE convert_from(payload, 'UTF8')::json ->> 'orderId' = 'reserved-first'",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    assert_eq!((traces.len(), traces.iter().collect::<BTreeSet<_>>().len()), (3, 1), "{traces:?}");
    for member in [orders, reserving, charging, first_shipping, second_shipping] {
        member.stop().await;
    }
    for durable in ["stock", "billing", "shipping"] {
        wait::until(&format!("{durable} has acknowledged all"), async || {
            (platform.outstanding("EVENTS", durable).await == 0).then_some(())
        })
        .await;
    }
}
