"""Texts of 200 characters and more, for 14 encodings that files come in besides UTF-8: our own sentences."""

# ruff: noqa: E501

from __future__ import annotations

_CHINESE = (
    "小明每天早上六点起床，先去操场跑步，然后回家吃早饭。他的妈妈常说，身体是革命的本钱，没有健康什么都做不好。学校里老师讲了很多历史故事，其中最让他难忘的是长城的修建过程。",
    "人工智能正在改变我们的生活方式。从手机上的语音助手到自动驾驶汽车，各种应用层出不穷。专家认为，未来十年内，这项技术会在医疗、教育和农业等领域发挥更大的作用。",
    "问：怎样种好番茄？答：先选一块阳光充足的地方，把土翻松，再拌入一些腐熟的肥料。苗高二十厘米时移栽，株距约五十厘米，浇足定根水，以后每隔三天浇一次。",
    "昨天下午，城南的老图书馆重新开放了。馆长说，修缮用了两年时间，新增了儿童阅览室和一间录音室。不少读者排着队进门，有人还带来了三十年前的借书证。",
    "这道题可以这样想：设甲的速度为每小时五公里，乙的速度为每小时四公里，两人相向而行，三小时后相遇，那么两地之间的距离就是二十七公里，对不对？",
)
_TAIWAN = (
    "小明每天早上六點起床，先去操場跑步，然後回家吃早飯。他的媽媽常說，身體健康最重要，沒有健康什麼都做不好。學校裡老師講了很多歷史故事，其中最讓他難忘的是長城的修建過程。",
    "人工智慧正在改變我們的生活方式。從手機上的語音助理到自動駕駛汽車，各種應用層出不窮。專家認為，未來十年內，這項技術會在醫療、教育和農業等領域發揮更大的作用。",
    "問：怎樣種好番茄？答：先選一塊陽光充足的地方，把土翻鬆，再拌入一些腐熟的肥料。苗高二十公分時移栽，株距約五十公分，澆足定根水，以後每隔三天澆一次。",
    "昨天下午，城南的老圖書館重新開放了。館長說，修繕用了兩年時間，新增了兒童閱覽室和一間錄音室。不少讀者排著隊進門，有人還帶來了三十年前的借書證。",
    "這道題可以這樣想：設甲的速度為每小時五公里，乙的速度為每小時四公里，兩人相向而行，三小時後相遇，那麼兩地之間的距離就是二十七公里，對不對？",
)
_JAPANESE = (
    "今日はとても良い天気ですね。公園で子供たちが遊んでいます。私は本を読みながらコーヒーを飲みました。昨日は雨が降っていたので、家で映画を見ました。明日は友達と山に登る予定です。",
    "質問：東京から大阪まで新幹線でどのくらいかかりますか。回答：だいたい二時間半です。切符は駅の窓口か、インターネットで買うことができます。席は早めに予約した方がいいでしょう。",
    "古い図書館が二年間の工事を終えて、昨日の午後また開きました。新しい児童室と録音室ができて、たくさんの人が並んで入りました。三十年前の貸出カードを持ってきた人もいました。",
    "トマトを上手に育てるには、まず日当たりの良い場所を選びます。土をよく耕して、肥料を混ぜてください。苗が二十センチになったら植え替えて、三日に一度、水をたっぷりやります。",
    "彼女は毎朝六時に起きて、犬と一緒に川のそばを散歩する。それから朝ご飯を食べて、自転車で会社へ行く。仕事は忙しいけれど、同僚がみんな親切なので、毎日がとても楽しいそうだ。",
)
_KOREAN = (
    "오늘은 날씨가 매우 좋습니다. 공원에서 아이들이 놀고 있습니다. 저는 책을 읽으면서 커피를 마셨습니다. 어제는 비가 와서 집에서 영화를 보았습니다. 내일은 친구와 산에 올라갈 예정입니다.",
    "질문: 서울에서 부산까지 기차로 얼마나 걸립니까? 대답: 대략 두 시간 반입니다. 표는 역에서 사거나 인터넷으로 예매할 수 있습니다. 자리는 미리 예약하는 것이 좋습니다.",
    "오래된 도서관이 두 해 동안의 공사를 마치고 어제 오후에 다시 문을 열었습니다. 어린이 열람실과 녹음실이 새로 생겼고, 많은 사람들이 줄을 서서 들어갔습니다.",
    "토마토를 잘 키우려면 먼저 햇볕이 잘 드는 곳을 고르세요. 흙을 부드럽게 갈고 거름을 섞습니다. 모종이 이십 센티미터가 되면 옮겨 심고, 사흘에 한 번 물을 충분히 줍니다.",
    "그녀는 매일 아침 여섯 시에 일어나 개와 함께 강가를 산책한다. 그리고 아침을 먹고 자전거로 회사에 간다. 일은 바쁘지만 동료들이 모두 친절해서 하루하루가 즐겁다고 한다.",
)
_RUSSIAN = (
    "Сегодня хорошая погода, и дети играют в парке. Я читаю книгу и пью кофе, а вчера весь день шёл дождь, поэтому мы сидели дома и смотрели старые фильмы. Завтра пойдём в горы с друзьями, если не будет ветра.",
    "Вопрос: сколько времени идёт поезд из Москвы в Казань? Ответ: примерно двенадцать часов. Билеты можно купить на вокзале или через интернет, но места лучше заказать заранее, особенно летом и перед праздниками.",
    "Старая библиотека открылась вчера после двухлетнего ремонта. Теперь там есть детский зал и студия звукозаписи. Люди стояли в очереди, а один читатель принёс билет, который ему выдали тридцать лет назад.",
    "Чтобы вырастить хорошие помидоры, выберите солнечное место, разрыхлите землю и добавьте удобрение. Когда рассада поднимется на двадцать сантиметров, пересадите её и поливайте раз в три дня, лучше вечером.",
    "Она встаёт каждое утро в шесть часов и гуляет с собакой вдоль реки. Потом завтракает и едет на велосипеде на работу. Дел много, но коллеги у неё добрые, и каждый день приносит ей что-нибудь новое и весёлое.",
)
_FRENCH = (
    "Les élèves étudient à l'école du village. Le café est très bon, mais la forêt est plus belle encore où naît la rivière. Hier, il a plu toute la journée, et nous sommes restés à la maison pour regarder de vieux films français.",
    "Combien de temps dure le trajet de Paris à Genève ? À peu près trois heures. Les billets s'achètent à la gare ou sur Internet, mais il vaut mieux réserver sa place à l'avance, surtout l'été et pendant les fêtes de fin d'année.",
    "La vieille bibliothèque a rouvert hier après deux années de travaux. Elle possède désormais une salle réservée aux enfants et un studio d'enregistrement. Un lecteur âgé a même apporté sa carte d'il y a trente ans, toute jaunie.",
    "Pour réussir des tomates, choisissez un endroit ensoleillé, ameublissez la terre et mêlez-y du fumier bien décomposé. Quand les plants atteignent vingt centimètres, repiquez-les, puis arrosez-les généreusement tous les trois jours.",
    "Elle se lève à six heures et promène son chien le long du fleuve. Ensuite elle déjeune et part à vélo. Son métier est exigeant, mais ses collègues sont aimables, et chaque journée lui révèle quelque chose d'inattendu et de drôle.",
)
_GERMAN = (
    "Das „Grüne Haus“ kostet 5 € Eintritt – für Kinder die Hälfte. Die Äpfel, das Öl und der Übermut der Schüler sind überall schön anzusehen. Große Straßen führen nach Süden, und über den Flüssen hängen im Frühjahr noch die Nebel.",
    "Wie lange fährt der Zug von München nach Köln? „Ungefähr viereinhalb Stunden“, sagte der Schaffner – „aber nur, wenn er pünktlich ist.“ Die Fahrkarte kostet 69 €, und für größere Gepäckstücke muß man nichts zusätzlich bezahlen.",
    "Die alte Bücherei hat gestern nach zweijährigem Umbau wieder geöffnet. Für die Kinder gibt es einen Lesesaal – „den schönsten der Stadt“, wie die Bürgermeisterin erklärte – und für alle Übrigen ein Tonstudio für 3 € die Stunde.",
    "Für gute Tomaten wählt man einen sonnigen Platz, lockert die Erde und mischt ein wenig Dünger darunter. Sind die Pflänzchen zwanzig Zentimeter groß, setzt man sie um – und gießt sie alle drei Tage kräftig, möglichst am späten Abend.",
    "Sie steht täglich um sechs Uhr auf und geht mit dem Hund am Fluß spazieren. Danach frühstückt sie und fährt mit dem Rad zur Arbeit. „Es ist viel zu tun“, sagt sie – „aber die Kollegen sind fröhlich, und das ist die Hauptsache.“",
)
_CZECH = (
    "Příliš žluťoučký kůň úpěl ďábelské ódy. Zítra pojedeme do města a koupíme chléb, mléko a sýr pro děti. Včera celý den pršelo, a tak jsme seděli doma a dívali se na staré filmy, které má můj otec velmi rád už od mládí.",
    "Jak dlouho jede vlak z Prahy do Brna? Přibližně dvě a půl hodiny. Jízdenky si můžete koupit na nádraží nebo přes internet, ale místo je lepší objednat předem, zvláště v létě a před svátky, kdy bývají vagóny úplně plné.",
    "Stará knihovna se včera po dvouleté přestavbě znovu otevřela. Má teď dětskou čítárnu a nahrávací místnost. Lidé stáli ve frontě a jeden čtenář přinesl průkazku, kterou dostal před třiceti lety od své první učitelky.",
    "Chcete-li vypěstovat dobrá rajčata, vyberte slunné místo, zkypřete půdu a přimíchejte trochu hnojiva. Až sazenice vyrostou na dvacet centimetrů, přesaďte je a každý třetí den je důkladně zalévejte, nejlépe až večer.",
    "Každé ráno vstává v šest hodin a jde se psem na procházku podél řeky. Potom posnídá a jede na kole do práce. Má toho hodně, ale její kolegové jsou milí, a proto jí každý den přináší něco nového, veselého a užitečného.",
)
_GREEK = (
    "Σήμερα ο καιρός είναι πολύ καλός και τα παιδιά παίζουν στο πάρκο. Διαβάζω ένα βιβλίο και πίνω καφέ. Χθες έβρεχε όλη τη μέρα, γι' αυτό μείναμε στο σπίτι και είδαμε παλιές ταινίες που αρέσουν πολύ στον πατέρα μου.",
    "Πόση ώρα κάνει το τρένο από την Αθήνα στη Θεσσαλονίκη; Περίπου τέσσερις ώρες. Τα εισιτήρια πωλούνται στον σταθμό ή στο διαδίκτυο, αλλά καλύτερα να κλείσετε θέση νωρίτερα, ιδίως το καλοκαίρι και πριν από τις γιορτές.",
    "Η παλιά βιβλιοθήκη άνοιξε ξανά χθες ύστερα από δύο χρόνια εργασιών. Έχει τώρα παιδική αίθουσα και στούντιο ηχογράφησης. Ο κόσμος περίμενε στην ουρά και ένας αναγνώστης έφερε την κάρτα που είχε πάρει πριν από τριάντα χρόνια.",
    "Για να βγάλετε καλές ντομάτες, διαλέξτε ένα ηλιόλουστο μέρος, σκαλίστε το χώμα και ρίξτε λίγο λίπασμα. Όταν τα φυτά φτάσουν τα είκοσι εκατοστά, μεταφυτέψτε τα και ποτίζετέ τα κάθε τρεις μέρες, καλύτερα το βράδυ.",
    "Ξυπνάει κάθε πρωί στις έξι και πηγαίνει βόλτα με τον σκύλο δίπλα στο ποτάμι. Ύστερα τρώει πρωινό και πάει στη δουλειά με το ποδήλατο. Έχει πολλά να κάνει, μα οι συνάδελφοί της είναι ευγενικοί και χαρούμενοι.",
)
_THAI = (
    "วันนี้อากาศดีมาก เด็กๆ กำลังเล่นอยู่ในสวนสาธารณะ ฉันอ่านหนังสือและดื่มกาแฟ เมื่อวานฝนตกทั้งวัน เราจึงอยู่บ้านและดูหนังเก่าด้วยกัน พรุ่งนี้จะไปเดินป่ากับเพื่อน ถ้าไม่มีลมแรงและฝนไม่ตกอีก เราจะออกเดินทางแต่เช้าตรู่",
    "รถไฟจากกรุงเทพไปเชียงใหม่ใช้เวลานานเท่าไร ประมาณสิบสองชั่วโมง ตั๋วซื้อได้ที่สถานีหรือทางอินเทอร์เน็ต แต่ควรจองที่นั่งล่วงหน้า โดยเฉพาะหน้าร้อนและก่อนวันหยุดยาว เพราะคนเดินทางกลับบ้านกันมากทุกปี",
    "ห้องสมุดเก่าเปิดอีกครั้งเมื่อวานนี้หลังจากซ่อมแซมสองปี ตอนนี้มีห้องอ่านหนังสือสำหรับเด็กและห้องบันทึกเสียง ผู้คนเข้าแถวรอหน้าประตู และมีผู้อ่านคนหนึ่งนำบัตรที่ได้รับเมื่อสามสิบปีก่อนมาด้วยความภูมิใจ",
    "ถ้าอยากปลูกมะเขือเทศให้ได้ผลดี ให้เลือกที่ที่มีแดดมาก พรวนดินและใส่ปุ๋ยเล็กน้อย เมื่อต้นกล้าสูงยี่สิบเซนติเมตรก็ย้ายลงแปลง แล้วรดน้ำทุกสามวัน ควรรดในตอนเย็นจะดีกว่าตอนกลางวันที่แดดร้อนจัด",
    "เธอตื่นนอนตอนหกโมงเช้าทุกวันและพาสุนัขไปเดินเล่นริมแม่น้ำ หลังจากนั้นก็กินข้าวเช้าและขี่จักรยานไปทำงาน งานมีมากแต่เพื่อนร่วมงานใจดีทุกคน เธอจึงบอกว่าแต่ละวันผ่านไปอย่างสนุกสนานและไม่น่าเบื่อเลย",
)


def _long(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Each of 200 characters at least: with as much of the next one as that takes."""
    return tuple(
        text
        if len(text) >= 200
        else (text + texts[(at + 1) % len(texts)] + texts[(at + 2) % len(texts)])[:260]
        for at, text in enumerate(texts)
    )


TEXTS: dict[str, tuple[str, ...]] = {
    "gb18030": _long(_CHINESE),
    "big5": _long(_TAIWAN),
    "shift_jis": _long(_JAPANESE),
    "euc_jp": _long(_JAPANESE),
    "euc_kr": _long(_KOREAN),
    "cp1252": _long(_GERMAN),
    "iso8859-1": _long(_FRENCH),
    "mac_roman": _long(_FRENCH),
    "cp1251": _long(_RUSSIAN),
    "koi8-r": _long(_RUSSIAN),
    "cp1250": _long(_CZECH),
    "iso8859-2": _long(_CZECH),
    "cp1253": _long(_GREEK),
    "tis-620": _long(_THAI),
}
