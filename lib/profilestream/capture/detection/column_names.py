"""Names of columns in logs, in English, German and Chinese, and the canonical columns that they suggest."""

import re

# Names that a field inherits its meaning from its parent: `user.id` is `user_id`.
_GENERIC = {
    "id",
    "ids",
    "name",
    "type",
    "value",
    "no",
    "nr",
    "code",
    "key",
    "number",
    "category",
    "title",
    "model",
    "label",
}
# Parents that add nothing to the meaning: `properties.price` is `price`.
CONTAINERS = {
    "properties", "props", "data", "payload", "params", "event_params", "parameters", "attributes", "attrs", "body",
    "fields", "detail", "details", "info", "message", "record", "meta", "metadata", "content", "ecommerce", "traits",
}  # fmt: skip

_PERSON = (
    "user|usr|customer|cust|client|visitor|member|household|buyer|shopper|consumer|account|person|hh|kunden?|kd"
    "|nutzer"
    "|benutzer|profile|subscriber|contact|player"
)
_ITEM = "item|product|prod|article|artikel|sku|goods|movie|book|song|track|video|produkt|offer|listing|stock"
_ID = "(id|ids|no|nr|num|nummer|number|key|code|hash|uuid|guid|kennung)"

# Canonical column -> pattern of the complete normalized name -> score. The highest score of a column counts.
PATTERNS: dict[str, dict[str, float]] = {
    "event_time": {
        r"(event_?|server_?|behavior_?|action_?|click_?|view_?|log_?|visit_?|order_?|purchase_?|transaction_?"
        r"|tran?s_?"
        r"|invoice_?|session_?)?(time_?stamp|date_?time|timestamp_(ms|utc|millis)|time_?stamp_ms|tstamp)": 1.0,
        r"(event|server|behavior|action|click|view|visit|order|purchase|transaction|trans|invoice|hit)_?(time"
        r"|ts)": 0.98,
        r"ts|time|zeit|zeitpunkt|zeitstempel|timestamp|datum_(und_)?(uhr)?zeit|ts_(ms|us|s)|(unix"
        r"|epoch)_?(time\w*|ms|s)?|derived_tstamp|at|occurred_at|happened_at|event_at": 0.95,
        r"collector_tstamp|original_timestamp|created(_?(at|on|time|date))?|create_time|erstellt(_am)?": 0.85,
        r"(event|order|purchase|transaction|trans|invoice|visit|action|sales?|t|tx|bestell|kauf|rechnungs|buchungs)_?"
        r"(date|dat|datum|day)": 0.8,
        r"(.*_)?(event|order|purchase|transaction|txn|click|view)_(time_?stamp|time|date_?time)": 0.9,
        r"date|datum|day|dt|tag|uhrzeit|(txn|tx|trx)_date": 0.7,
        r".*(行为|事件|操作|下单|购买|访问|浏览|点击|支付|发生|创建|交易|订单).*(时间|日期).*|时间戳?": 1.0,
        r".*日期.*|.*时间.*": 0.7,
        r"dvce_created_tstamp|sent_at|received_at|client_time(stamp)?": 0.6,
        r".*(time|date|datum|zeit|tstamp|_at|_ts)|.*time_?stamp.*": 0.5,
    },
    "event_type": {
        r"(event|behaviou?r|action|activity|interaction|transaction|hit|feedback)_?(type|name|category)": 1.0,
        r"event|behaviou?r|action|ereignis(typ)?|aktion|aktionstyp|vorgang|aktivität|interaktion": 0.95,
        r".*(行为|事件|动作|操作|交互).*(类型|类别|名称)?|类型": 0.95,
        r"(event|ecommerce|ec)_action|(event|behaviou?r|action)_(code|cd)": 0.9,
        r"(event|behaviou?r|action)_type_id|activity|interaction|type|typ|verb|ereignisart|se_action|operation"
        r"|op|act": 0.8,
        r".*(behaviou?r|action|event)_?.*type|(product|item)_action": 0.7,
        r"status|state|kind|art|method": 0.45,
    },
    "event_id": {
        r"(event|hit|log|row|record|message|msg|insert|view|click|review|rating|request|line|ereignis)_?(id|uuid"
        r"|guid)": 1.0,
        r"uuid|guid|id|_id|insert_?id": 0.9,
        r".*(事件|日志|记录|流水).*(id|编号|号)|编号|流水号": 0.9,
    },
    "user_id": {
        rf"({_PERSON})s?_?{_ID}": 1.0,
        r"uid|user|userid|full_?visitor_?id|visitorid|kunde|nutzer|benutzer|customer|member|visitor|client"
        r"|shopper": 0.95,
        rf"({_PERSON})_?(pseudo|hashed?|anon\w*)_?id|hashed_?(user|customer)_?id": 0.8,
        r"domain_?user_?id|anonymous_?id|anon_?id|reviewer_?id|author_?id|buyer|household|account": 0.75,
        r".*(用户|会员|顾客|客户|买家|消费者)(id|编号|号|标识|账号|卡号|名)?": 1.0,
        r"(wechat_?)?(open|union)_?id|msisdn|uuid|guid|network_?user_?id|cookie(_?id)?|device_?id|client_?uuid"
        r"|email|e_mail|browser_?id|login|username"
        r"|user_name": 0.55,
        rf".*({_PERSON}).*id|who": 0.6,
    },
    "item_id": {
        rf"({_ITEM})s?_?{_ID}": 1.0,
        r"(stock|product|item)_?(code|sku)|asin|sku|isbn|ean|gtin|aid|iid|pid|itemid|artikel|produkt|item"
        r"|product|article": 0.95,
        r".*(商品|产品|货品|物品|宝贝)(id|sku|编号|号|编码|代码)?|货号|款号": 1.0,
        r"(content|variant|parent|merchandise|asset|course|game|restaurant|business|hotel|recipe|news)_?id": 0.7,
        r"(parent_)?asin|art_(nr|no|nummer|id)|poi(_id)?|(location|venue)_id": 0.65,
        r"movie|book|song|track|video|goods|offer|title_?id|upc": 0.7,
        rf".*({_ITEM}).*(id|nr|no|nummer|code)|what": 0.6,
    },
    "session_id": {
        r"(user_?|ga_?|web_?|browser_?|domain_?)?sessions?_?(id|key|no|idx)?|sid|visit_?(id|no|number)?"
        r"|sitzung(s_?(id|nr))?": 1.0,
        r".*会话.*": 1.0,
    },
    "order_id": {
        r"(order|invoice|transaction|trans|basket|receipt|purchase|cart|bill|ticket|checkout|bestell|rechnungs"
        r"|auftrags|beleg|bon)"
        r"s?_?(id|no|nr|num|nummer|number|key)": 1.0,
        r"order|invoice|bestellung|rechnung|auftrag|beleg": 0.8,
        r".*(订单|发票|交易|小票)(id|编号|号)": 1.0,
    },
    "price": {
        r"(unit_?|item_?|product_?|sale_?|selling_?|list_?)?price(_?(usd|eur|gbp|cny|in_usd))?|(einzel|stück"
        r"|verkaufs)?_?preis(_?(eur|euro|chf))?|单价|.*价格.*|售价": 1.0,
        r"(unit_?)?cost|price.*|.*_price": 0.6,
    },
    "value": {
        r"(sales_?|line_?|order_?|total_?|net_?|gross_?|purchase_?)?(value|amount|revenue|total|turnover|spend"
        r"|amt)|sales"
        r"|(event_)?value_in_usd|betrag|(gesamt)?summe|umsatz|gesamt(preis|betrag)?|.*金额.*|总价|dollars|sum"
        r"|payment(_value)?": 0.9,
        r"(dollar|usd|eur|total|item|basket|invoice|paid)s?_(value|amount|spent)": 0.8,
        r".*(amount|revenue|total|price_total).*": 0.5,
    },
    "quantity": {
        r"(order_?|item_?|purchase_?)?(quantity|qty|units?|pieces|count|num_items)|menge|anzahl|stück(zahl)?"
        r"|数量|.*数量|件数": 1.0,
        r"(quantity|qty)_.*|.*_(quantity|qty)|cds|packs|num|(number|num|no)_of_.*": 0.7,
    },
    "rating": {
        r"(overall_?|user_?|review_?)?(ratings?|stars?|score)|overall|bewertung|sterne|note|评分|打分|星级": 1.0,
    },
    "currency": {r"(price_?|order_?)?currency(_?(code|id))?|währung|币种|货币": 1.0},
    "category": {
        rf"({_ITEM})?_?(category|categories|cat)_?(code|name)?|kategorie|warengruppe|(商品|产品)?(类目|分类|品类"
        rf"|类别)(名称|名)?": 1.0,
        rf"({_ITEM})?_?(category|categories|cat|cate|categ)_?(id|key|no)|cate|categ|kategorie_?(id|nr)|.*(类目"
        rf"|分类|品类|类别)(id|编号)?": 0.9,
        r"(item|product)_(category\d?|type|group)|department(_?name)?|aisle|genres?|department_id|aisle_id"
        r"|section": 0.7,
    },
    "brand": {r"(item_?|product_?)?brand(_?(id|name|code))?|marke|hersteller|manufacturer|品牌(id|名称|名)?"
    r"|vendor": 1.0},
    "query": {
        r"(search_?)?(query|queries|term|keyword|search_?string)(_?string)?|search(_term|_query|_text|_keyword)?"
        r"|suchbegriff|suchanfrage|搜索词|关键词|.*搜索.*词": 1.0,
    },
    "text": {
        rf"({_ITEM})_?(name|title|desc(ription)?)|description|bezeichnung|artikelbezeichnung|artikelname"
        r"|(商品|产品)(名称|名|标题)|review(_?text)?|review_?body|comment": 0.9,
        r"title|name|text|body|评论内容": 0.6,
    },
    "channel": {r"(sales_?|traffic_?)?channel(_?(id|name|type|grouping))?|platform|kanal|vertriebskanal|渠道"
    r"|来源渠道|平台": 0.9},
    "device": {r"device(_?(type|category|name|class))?|gerät(etyp)?|设备(类型)?|终端(类型)?": 0.9},
    "region": {
        r"(geo_?|ship_?|user_?|customer_?)?(country|region|state|city|province|store)(_?(id|code|name|no))?|land"
        r"|ort|filiale|stadt"
        r"|bundesland|store|地区|省份?|城市|国家|门店": 0.8,
    },
}  # fmt: skip
# Times of something else than the event.
_OTHER_TIME = re.compile(
    r"(.*_)?(updated?|modified|deliver\w*|ship\w*|birth\w*|dob|expir\w*|due|valid|release\w*|load\w*|etl|ingest\w*"
    r"|process\w*|end|geburt\w*|liefer\w*)(_.*)?"
)
_OTHER_TIME_SCORE = 0.15
_COMPILED = {target: [(re.compile(p), score) for p, score in rows.items()] for target, rows in PATTERNS.items()}
# Words in the names of columns, files and folders of logs that contain purchases, views or ratings only.
PURCHASE_HINT = re.compile(
    r"purchas|transact|order|sale|invoice|receipt|basket|checkout|buy|bought|trans_|t_dat|bestell|kauf|rechnung"
    r"|verkauf"
    r"|umsatz|bon\b|订单|购买|交易|销售|下单"
)
VIEW_HINT = re.compile(r"(?<!re)view|click|visit|impression|browse|page|ansicht|aufruf|klick|浏览|点击|访问")


def normalize(name: str) -> str:
    """A name in lower case with `_` between words: `CustomerID` -> `customer_id`, `Artikel-Nr.` -> `artikel_nr`."""
    name = re.sub(r"([a-z0-9äöüß])([A-Z])", r"\1_\2", name.strip())
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"_+", "_", re.sub(r"[^\w]+", "_", name.lower())).strip("_")


def scores(path: tuple[str, ...]) -> dict[str, float]:
    """Scores from 0 to 1 by canonical column, of a raw column or a nested field.

    Args:
        path: names from the raw column to the field; one name for a column that is not nested.
    """
    words = [normalize(part) for part in path]
    leaf, parents = words[-1], [word for word in words[:-1] if word not in CONTAINERS]
    leaf = re.sub(r"^hashed_|_hash(ed)?$", "", leaf) or leaf
    names = {leaf: 1.0}
    if parents:
        names = {f"{parents[-1]}_{leaf}": 1.0, leaf: 0.5 if leaf in _GENERIC else 0.9}
        if leaf in _GENERIC:
            names[f"{parents[-1].removesuffix('s')}_{leaf}"] = 1.0
    best: dict[str, float] = {}
    for name, weight in names.items():
        for target, patterns in _COMPILED.items():
            score = next((s for pattern, s in sorted(patterns, key=lambda p: -p[1]) if pattern.fullmatch(name)), 0.0)
            if target == "event_time" and _OTHER_TIME.fullmatch(name):
                score = min(score, _OTHER_TIME_SCORE)
            if score * weight > best.get(target, 0.0):
                best[target] = score * weight
    depth_penalty = 0.01 * (len(words) - 1)
    return {target: round(score - depth_penalty, 3) for target, score in best.items()}
